"""The commands that run and show studies."""

from __future__ import annotations

from collections.abc import Callable
from time import sleep
from typing import TYPE_CHECKING, Annotated, Literal

import typer

import raytune_m2f as rm
from raytune_m2f.cli.console import clear_errors, err, is_quiet, out, print_table
from raytune_m2f.cli.options import (
    LARGEST_SEED,
    MOST,
    Address,
    ConfigFile,
    GpusPerWorker,
    Overrides,
    Trust,
    given,
    require_duration,
    require_finite,
)
from raytune_m2f.errors import InputError, TrainingError

if TYPE_CHECKING:
    from raytune_m2f import Study
    from raytune_m2f.study.lines import StudyLines
    from raytune_m2f.study.status import Silent, StudyStatus

WATCH_SECONDS = 2.0

Sampler = Literal["auto", "tpe", "gp", "cmaes", "random", "grid"]
Method = Literal["asha", "promotion", "pbt", "none"]
StudyDir = Annotated[str, typer.Argument(metavar="STUDY", help="Study directory, or its address (s3://, gs://).")]
Concurrent = Annotated[
    int | None, typer.Option(min=1, max=MOST, help="Trials at once at most; by default what the study says.")
]


def tune(
    context: typer.Context,
    config: ConfigFile,
    space: Annotated[
        str,
        typer.Option(
            help="Search space: a name (default, learning_rate, queries, loss_weights, ablation, demo) or a file."
        ),
    ],
    study: Annotated[
        str,
        typer.Option(
            metavar="STUDY",
            help="Study directory to make; on a cluster, on storage that all nodes see, or s3://BUCKET/PATH or "
            "gs://BUCKET/PATH.",
        ),
    ],
    overrides: Overrides = None,
    trials: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Trials in total; by default 20 if there is no other limit.")
    ] = None,
    time: Annotated[str | None, typer.Option(help="Wall time, e.g. 90m or 2h.", callback=require_duration)] = None,
    iterations: Annotated[int | None, typer.Option(min=1, max=MOST, help="Optimizer steps over all trials.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(min=0.01, callback=require_finite, help="GPU-hours over all trials.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Trials at once at most; by default as many as fit.")
    ] = None,
    workers_per_trial: Annotated[
        str, typer.Option(metavar="N", help="Ray Train workers of a trial; 2:8: as many of these as there is room for.")
    ] = "1",
    gpus_per_worker: GpusPerWorker = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="What is maximised: a key of the reports, such as segm/AP_all (category and all subcategories right), "
            "or a weighted sum like 'segm/AP + 0.5*segm/AP_all'. By default segm/AP. Several times: several "
            "objectives, of which the first stops and ranks trials."
        ),
    ] = None,
    constraint: Annotated[
        list[str] | None, typer.Option(help="Bound that the best must keep, e.g. 'memory_gb<=20' or 'latency_ms<=50'.")
    ] = None,
    sampler: Annotated[Sampler, typer.Option(help="How points are chosen; grid tries them all.")] = "auto",
    early_stopping: Annotated[
        Method | None,
        typer.Option(
            help="asha ends hopeless trials, promotion pauses them, pbt continues better ones in their place. By "
            "default promotion with --sampler auto, none with grid, else asha.",
        ),
    ] = None,
    grace: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Iterations before which no trial is stopped.")
    ] = None,
    reduction_factor: Annotated[
        int, typer.Option(min=2, max=MOST, help="One in so many trials goes on at a rung.")
    ] = 3,
    stop_dead_heads: Annotated[
        bool,
        typer.Option(
            "--stop-dead-heads",
            help="End a trial too when a head has learned nothing: only 'no object', or one class, in two reports.",
        ),
    ] = False,
    stop_when_flat: Annotated[
        bool,
        typer.Option(
            "--stop-when-flat", help="End when ten more trials would bring less than the noise, twice in a row."
        ),
    ] = False,
    from_study: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="STUDY",
            help="Earlier study: its best point is tried early, and all its curves teach the sampler. Several times: "
            "several, the nearest first.",
        ),
    ] = None,
    keep_checkpoints: Annotated[
        int, typer.Option(min=1, max=MOST, help="Keep the weights of so many best trials.")
    ] = 5,
    optuna_storage: Annotated[
        str | None,
        typer.Option(
            help="Database for the record, e.g. 'postgresql://me:${DB_PASSWORD}@host/optuna'; default: a file."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the search.")] = 0,
    address: Address = None,
    no_doctor: Annotated[
        bool,
        typer.Option(
            "--no-doctor",
            help="Start whatever `doctor --quick` finds; else it looks first, and a problem ends the command.",
        ),
    ] = False,
) -> None:
    """Search the space for the configuration with the best segm AP.

    Example: raytune-m2f tune --config configs/fruits_nuts.yaml --space learning_rate --study studies/fruits --trials 20
    """
    with clear_errors():
        _print_outcome(rm.tune(**given(context, "no_doctor"), doctor=not no_doctor, progress=_progress()))


def resume(
    context: typer.Context,
    study: StudyDir,
    concurrent: Concurrent = None,
    address: Address = None,
    trust: Trust = False,
) -> None:
    """Go on with a study whose driver ended or was killed; unfinished trials continue from their checkpoints.

    Example: raytune-m2f resume studies/fruits
    """
    with clear_errors():
        _print_outcome(rm.resume(**given(context), progress=_progress()))


def extend(
    context: typer.Context,
    study: StudyDir,
    trials: Annotated[int | None, typer.Option(min=1, max=MOST, help="So many trials more.")] = None,
    time: Annotated[
        str | None, typer.Option(help="So much wall time more, e.g. 90m or 2h.", callback=require_duration)
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=1, max=MOST, help="So many optimizer steps more.")] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(min=0.01, callback=require_finite, help="So many GPU-hours more.")
    ] = None,
    space: Annotated[str | None, typer.Option(help="Search space for the trials to come: a name or a file.")] = None,
    concurrent: Concurrent = None,
    address: Address = None,
    trust: Trust = False,
) -> None:
    """Raise a study's budget, or change its search space, and go on with it.

    Example: raytune-m2f extend studies/fruits --trials 20
    """
    with clear_errors():
        _print_outcome(rm.Study(study).extend(**given(context, "study"), progress=_progress()))


def confirm(
    context: typer.Context,
    study: StudyDir,
    top: Annotated[int, typer.Option(min=1, max=MOST, help="How many of the best trials.")] = 3,
    seeds: Annotated[int, typer.Option(min=1, max=MOST, help="New seeds for each.")] = 3,
    concurrent: Concurrent = None,
    address: Address = None,
    trust: Trust = False,
) -> None:
    """Train the best trials again under new seeds, and name the winner with its interval.

    Example: raytune-m2f confirm studies/fruits --top 3 --seeds 3
    """
    with clear_errors():
        from raytune_m2f.cli.tables import confirmation_table

        found = rm.Study(study).confirm(**given(context, "study"), progress=_progress())
        print_table(confirmation_table(found))
        out.print(str(found), soft_wrap=True)


def status(
    study: StudyDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a line of CSV for each trial.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Redraw until the study is not run any more.")] = False,
    address: Annotated[
        str | None,
        typer.Option(help="Dashboard of the Ray cluster that can read the study, e.g. http://head:8265; see `submit`."),
    ] = None,
) -> None:
    """Show the trials of a study, running or not, and what it has learned.

    Example: raytune-m2f status studies/fruits
    """
    with clear_errors():
        from rich.live import Live

        from raytune_m2f.cli.tables import rows_that_fit, status_table

        if as_json + as_csv + watch > 1:
            raise InputError("--json, --csv and --watch do not go together: give one of them.")
        read = _reader(study, address)
        state = read(insight=not (watch or as_csv))
        if as_json:
            print(state.to_json())
        elif as_csv:
            print(state.to_csv(), end="")
        elif watch:
            with Live(status_table(state, rows_that_fit(out)), console=out, auto_refresh=False) as live:
                while state.driver is not None:
                    sleep(WATCH_SECONDS)
                    state = read(insight=False)
                    live.update(status_table(state, rows_that_fit(out)), refresh=True)
        else:
            print_table(status_table(state, folded=out.is_terminal))
            for line in [] if state.insight is None else state.insight.lines():
                out.print(line, soft_wrap=True, highlight=False)


def best(
    study: StudyDir,
    trial: Annotated[int | None, typer.Option(min=0, max=MOST, help="Another trial than the best.")] = None,
) -> None:
    """Print the command line that trains the best trial again; what it is and how good goes to stderr.

    Example: raytune-m2f best studies/fruits
    """
    with clear_errors():
        print(rm.Study(study).train_command(trial=trial))


def _reader(study: str, address: str | None) -> Callable[..., StudyStatus]:
    """What reads how a study stands: this process, or a cluster that can be asked at its dashboard."""
    if address is None:
        from raytune_m2f import Study

        return Study(study).status
    from raytune_m2f.cluster.jobs import Jobs

    jobs = Jobs(address)
    return lambda insight: jobs.study_status(study)


def _progress() -> StudyLines | Silent:
    """What follows a study: a table or lines on stderr, nobody with -q."""
    from raytune_m2f.cli.tables import study_progress
    from raytune_m2f.study.status import Silent

    return Silent() if is_quiet() else study_progress(err)


def _print_outcome(study: Study) -> None:
    """The trials of a study that has run, and what to do with them.

    Raises:
        TrainingError: no trial has found anything; a script does not go on to export that.
    """
    from raytune_m2f.cli.tables import status_table
    from raytune_m2f.study.lines import closing_words, nothing_found

    status = study.status()
    print_table(status_table(status, folded=out.is_terminal))
    if (words := nothing_found(status)) is not None and status.driver is None:
        raise TrainingError(words)
    if (words := closing_words(status)) is not None:
        out.print(words, soft_wrap=True, highlight=False)
