"""The command line. Results go to stdout, logs to stderr; exit code 0 done, 1 the work failed, 2 wrong input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.live import Live
from rich.table import Table

from raytune_m2f.console import clear_errors, err, log_to_stderr, out, parse_duration, require_pairs

if TYPE_CHECKING:
    from raytune_m2f.tuning import Extension

# heavy modules (torch, ray) are imported where they are used, so that --help answers at once

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tune a multitask Mask2Former with Ray Tune and Optuna. Start with [bold]raytune-m2f demo[/].",
)

WATCH_SECONDS = 2.0

Sampler = Literal["tpe", "gp", "cmaes", "random", "grid"]
Method = Literal["asha", "promotion", "pbt", "none"]

ConfigFile = Annotated[Path, typer.Option("--config", help="Configuration in detectron2's keys (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration values that win over the file.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. 'auto'; by default this machine alone.")]
ModelDir = Annotated[Path, typer.Option("--model", help="Exported model: a directory made by `export`.")]
GpusPerWorker = Annotated[
    float | None, typer.Option(min=0, help="GPUs of a worker, a fraction shares one; by default 1 if there is any.")
]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo"),
    trials: Annotated[int, typer.Option(min=2, help="Trials of the study.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and of the search.")] = 0,
) -> None:
    """Do it all once on synthetic shapes: generate, tune, export, predict. On two CPU cores, in minutes.

    Example: raytune-m2f demo --output demo
    """
    with clear_errors():
        from raytune_m2f.demo import run_demo

        log_to_stderr()
        run_demo(output, trials=trials, seed=seed)


@app.command()
def train(
    config: ConfigFile,
    output: Annotated[Path, typer.Option(help="Directory for checkpoints, metrics.jsonl and log.txt.")],
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Ray Train workers; by default this process trains, without Ray.")
    ] = None,
    gpus_per_worker: GpusPerWorker = None,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")] = False,
) -> None:
    """Train one configuration; evaluate and checkpoint at every TEST.EVAL_PERIOD.

    Example: raytune-m2f train --config configs/fruits_nuts.yaml --output runs/fruits SOLVER.BASE_LR=5e-4
    """
    with clear_errors():
        from raytune_m2f.config import load_config
        from raytune_m2f.train import run_training

        log_to_stderr()
        report = run_training(
            load_config(config, require_pairs(overrides or [])),
            output,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            address=address,
            resume=resume,
        )
        _print_metrics(report, f"{output}, iteration {report['iteration']}")


@app.command()
def tune(
    config: ConfigFile,
    space: Annotated[
        str,
        typer.Option(
            help="Search space: a name (default, learning_rate, queries, loss_weights, ablation, demo) or a file."
        ),
    ],
    study: Annotated[Path, typer.Option(help="Study directory to make; on a cluster, on storage that all nodes see.")],
    overrides: Overrides = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials in total; by default 20 if there is no other limit.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Wall time, e.g. 90m or 2h.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Optimizer steps over all trials.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0.01, help="GPU-hours over all trials.")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once at most; by default as many as fit.")
    ] = None,
    workers_per_trial: Annotated[int, typer.Option(min=1, help="Ray Train workers of a trial.")] = 1,
    gpus_per_worker: GpusPerWorker = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What is maximised: a key of the reports, or a weighted sum like 'segm/AP + 0.5*ripeness/accuracy'. "
            "By default segm/AP. Several times: several objectives, of which the first stops and ranks trials."
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="Bound that the best must keep, e.g. 'memory_gb<=20' or 'latency_ms<=50'.")
    ] = None,
    sampler: Annotated[Sampler, typer.Option(help="How points are chosen; grid tries them all.")] = "tpe",
    early_stopping: Annotated[
        Method | None,
        typer.Option(
            help="asha ends hopeless trials, promotion pauses them, pbt continues better ones in their place. By "
            "default asha, and none with --sampler grid.",
        ),
    ] = None,
    grace: Annotated[int | None, typer.Option(min=1, help="Iterations before which no trial is stopped.")] = None,
    reduction_factor: Annotated[int, typer.Option(min=2, help="One in so many trials goes on at a rung.")] = 3,
    from_study: Annotated[
        Path | None,
        typer.Option("--from", help="Earlier study: its best points go first, the others teach the sampler."),
    ] = None,
    keep_checkpoints: Annotated[int, typer.Option(min=1, help="Keep the weights of so many best trials.")] = 5,
    optuna_storage: Annotated[
        str | None,
        typer.Option(
            help="Database for the record, e.g. 'postgresql://me:${DB_PASSWORD}@host/optuna'; default: a file."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    address: Address = None,
) -> None:
    """Search the space for the configuration with the best segm AP.

    Example: raytune-m2f tune --config configs/fruits_nuts.yaml --space default --study studies/fruits --trials 20
    """
    with clear_errors():
        from raytune_m2f import tuning
        from raytune_m2f.config import load_config

        log_to_stderr()
        seconds = parse_duration(time)
        if not any((trials, seconds, iterations, gpu_hours)) and sampler != "grid":
            trials = 20
        loaded = load_config(config, require_pairs(overrides or []))
        searched = tuning.load_space(space, loaded)
        if sampler == "grid":
            trials = min(trials or sys.maxsize, len(tuning.grid(searched)))
        settings = tuning.StudySettings(
            budget=tuning.Budget(trials=trials, seconds=seconds, iterations=iterations, gpu_hours=gpu_hours),
            metrics=tuple(metric or ["segm/AP"]),
            constraints=tuple(constraint or []),
            sampler=sampler,
            seed=seed,
            early_stopping=tuning.EarlyStopping(
                method=early_stopping or ("none" if sampler == "grid" else "asha"),
                grace_iterations=grace,
                reduction_factor=reduction_factor,
            ),
            resources=tuning.Resources(
                workers=workers_per_trial, gpus_per_worker=gpus_per_worker, concurrent=concurrent
            ),
            keep_checkpoints=keep_checkpoints,
            optuna_storage=optuna_storage,
        )
        for note in tuning.check_before_start(loaded, searched, workers=workers_per_trial, asked=settings.asked):
            err.print(note, style="yellow", soft_wrap=True)
        points, prior = tuning.knowledge_of(from_study, searched, settings) if from_study else ([], [])
        tuning.create_study(study, loaded, searched, settings, points=points, prior=prior)
        _drive(study, address)


@app.command()
def resume(
    study: Annotated[Path, typer.Argument(help="Study directory.")],
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once at most; by default what the study says.")
    ] = None,
    address: Address = None,
) -> None:
    """Go on with a study whose driver ended or was killed; unfinished trials continue from their checkpoints.

    Example: raytune-m2f resume studies/fruits
    """
    with clear_errors():
        log_to_stderr()
        _drive(study, address, concurrent)


@app.command()
def extend(
    study: Annotated[Path, typer.Argument(help="Study directory.")],
    trials: Annotated[int | None, typer.Option(min=1, help="So many trials more.")] = None,
    time: Annotated[str | None, typer.Option(help="So much wall time more, e.g. 90m or 2h.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="So many optimizer steps more.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0.01, help="So many GPU-hours more.")] = None,
    space: Annotated[str | None, typer.Option(help="Search space for the trials to come: a name or a file.")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once at most; by default what the study says.")
    ] = None,
    address: Address = None,
) -> None:
    """Raise a study's budget, or change its search space, and go on with it.

    Example: raytune-m2f extend studies/fruits --trials 20
    """
    with clear_errors():
        from raytune_m2f import tuning

        log_to_stderr()
        more = tuning.Extension(
            trials=trials,
            iterations=iterations,
            seconds=parse_duration(time),
            gpu_hours=gpu_hours,
            space=tuning.load_space(space, tuning.plan_of(study).config) if space else None,
        )
        _drive(study, address, concurrent, more)


@app.command()
def confirm(
    study: Annotated[Path, typer.Argument(help="Study directory.")],
    top: Annotated[int, typer.Option(min=1, help="How many of the best trials.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, help="New seeds for each.")] = 3,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once at most; by default what the study says.")
    ] = None,
    address: Address = None,
) -> None:
    """Train the best trials again under new seeds, and name the winner with its interval.

    Example: raytune-m2f confirm studies/fruits --top 3 --seeds 3
    """
    with clear_errors():
        from raytune_m2f import tuning

        log_to_stderr()
        with tuning.StudyProgress(err) as progress:
            found = tuning.confirm_study(
                study, top=top, seeds=seeds, address=address, concurrent=concurrent, progress=progress
            )
        out.print(tuning.confirmation_table(found))


@app.command()
def status(
    study: Annotated[Path, typer.Argument(help="Study directory.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw until the study is not run any more.")] = False,
) -> None:
    """Show the trials of a study, running or not.

    Example: raytune-m2f status studies/fruits
    """
    with clear_errors():
        from raytune_m2f import tuning

        state = tuning.study_status(study)
        if as_json:
            print(state.to_json())
        elif watch:
            with Live(tuning.status_table(state), console=out, auto_refresh=False) as live:
                while state.driver is not None:
                    sleep(WATCH_SECONDS)
                    state = tuning.study_status(study)
                    live.update(tuning.status_table(state), refresh=True)
        else:
            out.print(tuning.status_table(state))


@app.command()
def export(
    source: Annotated[Path, typer.Argument(help="Study directory, or the output directory of `train`.")],
    output: Annotated[Path, typer.Option(help="Directory to make.")],
    trial: Annotated[int | None, typer.Option(min=0, help="Trial to export; by default the best.")] = None,
) -> None:
    """Export the best checkpoint as a directory that is enough to evaluate and predict.

    Example: raytune-m2f export studies/fruits --output models/fruits
    """
    with clear_errors():
        from raytune_m2f.errors import InputError
        from raytune_m2f.export import export_run
        from raytune_m2f.tuning import StudyDirectory, trial_to_export

        log_to_stderr()
        if StudyDirectory.at(source).plan_file.exists():
            run = Path(trial_to_export(source, trial).directory)
        elif trial is not None:
            raise InputError(f"--trial {trial}: {source} is no study, it has no trials")
        else:
            run = source
        report = export_run(run, output)
        _print_metrics(report, f"{output}, from {run}, iteration {report['iteration']}")


@app.command()
def evaluate(
    model: ModelDir,
    annotations: Annotated[Path, typer.Option(help="COCO annotation file with the labels that the model knows.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    output: Annotated[Path | None, typer.Option(help="File for the metrics and confusion tables (JSON).")] = None,
) -> None:
    """Score an exported model on a dataset: segm AP and the accuracy of every subcategory head.

    Example: raytune-m2f evaluate --model models/fruits --annotations val.json --images val
    """
    with clear_errors():
        from raytune_m2f.export import load_export
        from raytune_m2f.predict import evaluate_export

        log_to_stderr()
        with err.status("evaluating") as line:
            evaluator = evaluate_export(
                load_export(model), annotations, images, progress=lambda name: line.update(name)
            )
        metrics = evaluator.evaluate()
        if output is not None:
            tables = {name: head.confusion.tolist() for name, head in evaluator.heads.items()}
            content = {name: value if value == value else None for name, value in metrics.items()}
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(json.dumps({"metrics": content, "confusion": tables}, indent=2) + "\n", encoding="utf-8")
        _print_metrics(metrics, f"{model} on {annotations}")


@app.command()
def predict(
    model: ModelDir,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    output: Annotated[Path, typer.Option(help="Directory for the overlays and instances.json.")],
    score_threshold: Annotated[float, typer.Option(min=0, max=1, help="Leave out instances below this score.")] = 0.5,
) -> None:
    """Predict images: an overlay PNG for each, and all instances as COCO JSON.

    Example: raytune-m2f predict --model models/fruits --output predictions photos/
    """
    with clear_errors():
        from raytune_m2f.export import load_export
        from raytune_m2f.predict import predict_files

        log_to_stderr()
        with err.status("predicting") as line:
            content = predict_files(
                load_export(model),
                images,
                output,
                score_threshold=score_threshold,
                progress=lambda name: line.update(name),
            )
        found = len(content["annotations"])
        out.print(f"{found} instances in {len(content['images'])} images: pictures and instances.json in {output}")


def _drive(study: Path, address: str | None, concurrent: int | None = None, extension: Extension | None = None) -> None:
    """Run a study to the end of its budget, and say what came of it."""
    from raytune_m2f import tuning

    with tuning.StudyProgress(err) as progress:
        status = tuning.run_study(study, address=address, concurrent=concurrent, progress=progress, extension=extension)
    out.print(tuning.status_table(status))
    if status.best is not None:
        out.print(f"export the best trial: raytune-m2f export {study} --output DIR", soft_wrap=True)


def _print_metrics(report: dict[str, float], title: str) -> None:
    """Segm AP and subcategory accuracies, a row each."""
    table = Table(show_header=False)
    for name, value in report.items():
        if "/" in name:
            table.add_row(name, "no ground truth" if value != value else f"{value:.2f}")
    out.print(title, soft_wrap=True)
    out.print(table)


def main() -> None:
    """Entry point of `raytune-m2f`."""
    app()


if __name__ == "__main__":
    main()
