"""The command line. Results go to stdout, logs to stderr; exit code 0 done, 1 the work failed, 2 wrong input."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

import raytune_m2f as rm
from raytune_m2f.cli import cluster as cli_cluster
from raytune_m2f.cli import init as cli_init
from raytune_m2f.cli import study as cli_study
from raytune_m2f.cli.console import clear_errors, out, print_table, show_progress
from raytune_m2f.cli.doctor import doctor
from raytune_m2f.cli.options import (
    LARGEST_SEED,
    MOST,
    Address,
    ConfigFile,
    GpusPerWorker,
    Group,
    Overrides,
    Trust,
    application,
    given,
    require_finite,
    require_pairs,
)
from raytune_m2f.cli.report import report
from raytune_m2f.cli.scores import print_scores
from raytune_m2f.errors import InputError
from raytune_m2f.formats import FORMATS

log = logging.getLogger(__name__)

app = typer.Typer(
    cls=Group,
    callback=application,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tune a multitask Mask2Former with Ray Tune and Optuna. Start with [bold]raytune-m2f demo[/].",
)


MaxMegapixels = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        help="Refuse larger images; by default what the environment variable RAYTUNE_M2F_MAX_MEGAPIXELS says, or 178.",
    ),
]
ModelDir = Annotated[Path, typer.Option("--model", help="Exported model: a directory made by `export`.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo"),
    trials: Annotated[int, typer.Option(min=2, max=MOST, help="Trials of the study.")] = 8,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the data and of the search.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Train five times as long: better masks, a longer wait.")
    ] = False,
) -> None:
    """Do it all once on synthetic shapes: generate, tune, export, evaluate, predict, report. In minutes, on two cores.

    Example: raytune-m2f demo --output demo
    """
    with clear_errors():
        if output.exists() and any(output.iterdir()):
            raise InputError(f"--output {output} is not empty: give a new directory, or remove it.")
        log.info("demo in %s: %d trials on synthetic shapes; data.png there is the first picture", output, trials)
        from raytune_m2f.cli.demo import run_demo  # imports torch, which takes seconds

        run_demo(output, trials=trials, seed=seed, full=full)


app.command(cls=cli_init.SeveralWords)(cli_init.init)


@app.command()
def train(
    context: typer.Context,
    config: ConfigFile,
    output: Annotated[
        str,
        typer.Option(
            metavar="OUTPUT",
            help="Directory for checkpoints, metrics.jsonl and log.txt; s3:// and gs:// too.",
        ),
    ],
    overrides: Overrides = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Ray Train workers; by default this process trains, without Ray."),
    ] = None,
    gpus_per_worker: GpusPerWorker = None,
    address: Address = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in --output.")] = False,
) -> None:
    """Train one configuration; evaluate and checkpoint at every TEST.EVAL_PERIOD.

    Example: raytune-m2f train --config configs/fruits_nuts.yaml --output runs/fruits SOLVER.BASE_LR=5e-4
    """
    with clear_errors():
        report = rm.train(**given(context), progress=show_progress("training"))
        _print_metrics(report, f"{output}, iteration {report['iteration']}")


app.command()(doctor)
for command in (
    cli_study.tune,
    cli_study.resume,
    cli_study.extend,
    cli_study.confirm,
    cli_study.status,
    cli_study.best,
):
    app.command()(command)
app.command()(report)
app.command(context_settings={"allow_interspersed_args": False})(cli_cluster.submit)
app.command()(cli_cluster.logs)
app.command()(cli_cluster.stop)


@app.command()
def export(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="Study directory, or the output directory of `train`; s3:// and gs:// addresses too."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Directory to make.")],
    trial: Annotated[int | None, typer.Option(min=0, max=MOST, help="Trial to export; by default the best.")] = None,
    iteration: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Export the checkpoint of this iteration; by default the best.")
    ] = None,
    format: Annotated[
        str,
        typer.Option(help=f"What the directory is for: native (raytune_m2f itself), {', '.join(FORMATS)}."),
    ] = "native",
    skip_verify: Annotated[
        bool,
        typer.Option(
            "--skip-verify",
            help="Do not evaluate the export again; else a fresh process does on the test set, and an export that "
            "scores otherwise than its trial is refused. The model card says so.",
        ),
    ] = False,
    trust: Trust = False,
) -> None:
    """Export the best checkpoint as a directory that is enough to evaluate and predict, with a model card.

    Example: raytune-m2f export studies/fruits --output models/fruits
    """
    with clear_errors():
        done = rm.export_model(**given(context), progress=show_progress("verifying", "image"))
        _print_metrics(done.report, f"{output}, from {done.run}, iteration {done.report['iteration']}")


@app.command()
def evaluate(
    context: typer.Context,
    model: ModelDir,
    annotations: Annotated[Path, typer.Option(help="COCO annotation file with the labels that the model knows.")],
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    output: Annotated[Path | None, typer.Option(help="File for all that is measured (JSON).")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="New file for all detections: COCO's results (JSON), as its loadRes reads them.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="Another exported model, on the same images: which one is better, and how sure that is."),
    ] = None,
    compare_rankings: Annotated[
        bool,
        typer.Option(
            "--compare-rankings",
            help="Score every MODEL.MASK_FORMER.TEST.RANKING too, without a sieve, with each sieve and with all.",
        ),
    ] = False,
    max_megapixels: MaxMegapixels = None,
    trust: Trust = False,
) -> None:
    """Score an exported model on a dataset: segm AP, joint AP of categories and subcategories, and every head.

    Example: raytune-m2f evaluate --model models/fruits --annotations val.json --images val
    """
    with clear_errors():
        from raytune_m2f.api.models import require_result_files

        require_result_files(output, predictions)  # before the model is loaded, which takes seconds
        words = given(context, "model", "trust", "against")
        if against is not None:
            words["against"] = rm.load_model(against, trust=trust)
        scores = rm.load_model(model, trust=trust).evaluate(**words, progress=show_progress("evaluating", "image"))
        print_scores(scores, f"{model} on {annotations}")


@app.command()
def predict(
    context: typer.Context,
    model: ModelDir,
    images: Annotated[
        list[Path], typer.Argument(help="Images, folders of images, patterns in quotes: 'photos/**/*.jpg'.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Directory for the overlays, instances.json and results.json.")
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            "--min-score",
            "--score-threshold",
            min=0,
            max=1,
            callback=require_finite,
            help="Leave out instances below this score.",
        ),
    ] = 0.5,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            callback=require_pairs,
            help="Another value of what predictions depend on: sieves (MODEL.MASK_FORMER.TEST...), windows (TEST.TILES"
            "...), TEST.DETECTIONS_PER_IMAGE, INPUT.MIN_SIZE_TEST; may be repeated.",
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, max=MOST, help="Images at once in the network; by default the model's TEST.IMS_PER_BATCH."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default the GPU if there is one.")
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json", help="Print each image's instances as one line of JSON as soon as it is done.")
    ] = False,
    max_megapixels: MaxMegapixels = None,
    trust: Trust = False,
) -> None:
    """Predict images: an overlay PNG for each, and all instances as COCO JSON.

    Example: raytune-m2f predict --model models/fruits --output predictions photos/
    """
    with clear_errors():
        if output is None and not json_lines:
            raise InputError("nothing would be kept: give --output DIR for files, --json for lines, or both.")
        words = given(context, "model", "device", "json_lines", "trust")
        if json_lines:
            words["on_image"] = lambda line: typer.echo(json.dumps(line))
        content = rm.load_model(model, device=device, trust=trust).predict_files(
            **words, progress=show_progress("predicting", "image")
        )
        if not json_lines:
            counts = f"{len(content['annotations'])} instances in {len(content['images'])} images"
            out.print(f"{counts}: pictures and instances.json in {output}", soft_wrap=True)


def _print_metrics(report: dict[str, float], title: str) -> None:
    """Every metric of a report, a row each."""
    table = Table(show_header=False)
    for name, value in report.items():
        if "/" in name and not name.startswith("vitals/"):  # those are of the training, not of its end
            table.add_row(name, "no ground truth" if value != value else f"{value:.2f}")
    out.print(title, soft_wrap=True, markup=False, highlight=False)
    print_table(table)


def main() -> None:
    """Entry point of `raytune-m2f`."""
    app()


if __name__ == "__main__":
    main()
