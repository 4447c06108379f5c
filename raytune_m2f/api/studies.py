"""`tune`, `resume` and `Study`: a search, and how it stands."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

from raytune_m2f.api.models import LoadedModel, export_model, load_model
from raytune_m2f.api.reporting import PICTURES, TEST_IMAGES
from raytune_m2f.api.training import PathOrAddress, WorkProgress, config_of, describe_training
from raytune_m2f.config import Config
from raytune_m2f.config.load import Overrides
from raytune_m2f.errors import MissingDependencyError, StudyError
from raytune_m2f.loggers.names import require_loggers
from raytune_m2f.progress import as_context, line_progress, parse_duration, print_to_stderr, still
from raytune_m2f.study.directory import StudyDirectory, plan_of
from raytune_m2f.study.layout import NewStudy, new_study
from raytune_m2f.study.lines import StudyLines, caveat, flat_words, short_line, train_command, trial_line
from raytune_m2f.study.plan import Extension, StudyPlan
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.search.insight import Insight
from raytune_m2f.study.settings import Sampler, StoppingMethod, StudySettings, usual_stopping
from raytune_m2f.study.space import SearchSpace, check_space, grid, load_space, unread_priors
from raytune_m2f.study.status import Progress, StudyStatus, TrialStatus, relative, study_status
from raytune_m2f.training.trial_dir import CONFIG

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from raytune_m2f.study.confirm import Confirmation

log = logging.getLogger(__name__)

StudyProgress = Progress | AbstractContextManager[Progress] | None
"""Who follows a study, entered for as long as it runs; None: lines on stderr."""
Space = PathOrAddress | SearchSpace
"""A file, the name of a shipped search space, or one that is made already."""
DEFAULT_TRIALS = 20


def tune(
    config: PathOrAddress | Config,
    space: Space,
    study: PathOrAddress,
    *,
    overrides: Overrides = (),
    trials: int | None = None,
    time: str | float | None = None,
    iterations: int | None = None,
    gpu_hours: float | None = None,
    concurrent: int | None = None,
    workers_per_trial: int | str = 1,
    gpus_per_worker: float | None = None,
    metric: str | Sequence[str] = "segm/AP",
    constraint: str | Sequence[str] = (),
    sampler: Sampler = "auto",
    early_stopping: StoppingMethod | None = None,
    grace: int | None = None,
    reduction_factor: int = 3,
    stop_dead_heads: bool = False,
    stop_when_flat: bool = False,
    from_study: PathOrAddress | Sequence[PathOrAddress] = (),
    keep_checkpoints: int = 5,
    optuna_storage: str | None = None,
    seed: int = 0,
    address: str | None = None,
    doctor: bool = True,
    progress: StudyProgress = None,
) -> Study:
    """Search a space for the configuration with the best metric, until the first limit is reached.

    Args:
        config: a file, the name of a shipped configuration, or a `Config`.
        space: a file, the name of a shipped search space, or a `SearchSpace`.
        study: the directory to make; on a cluster one that all nodes see.
        overrides: `["KEY=VALUE", ...]` or `{"KEY": value}`; they win over the configuration.
        trials: started in total; without any limit 20, with the grid sampler at most its points.
        time: wall time, "2h" or seconds.
        iterations, gpu_hours: optimizer steps and GPU-hours over all trials.
        concurrent: trials at once at most; None: as many as fit.
        workers_per_trial: Ray Train workers; "2:8": as many of these as there is room for.
        gpus_per_worker: a fraction shares a GPU; None: one if there is any.
        metric: what is maximised: a key of the reports, or a weighted sum of some; several are several objectives.
        constraint: bounds that the best must keep, such as "memory_gb<=20".
        early_stopping: None: "promotion" with `auto`, "none" with `grid`, else "asha".
        grace: iterations before which no trial is stopped.
        reduction_factor: one in so many trials goes on at a rung.
        stop_dead_heads: end a trial also when a head of it has learned nothing in two reports in a row.
        stop_when_flat: end the study when ten more trials are expected to bring less than the noise, twice in a row.
        from_study: an earlier study, or several, the nearest first: its best point is tried early, and the sampler
            learns from the curves of all their trials.
        keep_checkpoints: the weights of so many of the best trials are kept.
        optuna_storage: address of a database for the record; None: a file in `study`.
        seed: of the search.
        address: of a Ray cluster, such as "auto"; None: this machine.
        doctor: look at data, evaluator and configuration first (see `diagnose`): what is worth a warning is logged in
            a line, a problem ends the call. False: what would be impossible is refused all the same.
        progress: follows the study; None prints lines to stderr.

    Raises:
        ConfigError, SearchSpaceError, DatasetError, StudyError, ModelError: what was given is wrong; nothing is made.
        TrainingError: every trial failed, or the first ones all failed alike.
        KeyboardInterrupt: Ctrl-C; the study can be resumed.
    """
    loaded = config_of(config, overrides)
    searched = space_of(space, loaded)
    if sampler == "grid":
        trials = min(trials or sys.maxsize, len(grid(searched)))
    elif all(limit is None for limit in (trials, time, iterations, gpu_hours)):
        trials = DEFAULT_TRIALS
    method = early_stopping or usual_stopping(sampler)
    budget = {"trials": trials, "seconds": parse_duration(time), "iterations": iterations, "gpu_hours": gpu_hours}
    asked = {
        "budget": budget,
        "metrics": _several(metric),
        "constraints": _several(constraint),
        "sampler": sampler,
        "seed": seed,
        "early_stopping": {
            "method": method,
            "grace_iterations": grace,
            "reduction_factor": reduction_factor,
            "dead_heads": stop_dead_heads,
        },
        "stop_when_flat": stop_when_flat,
        "resources": {"workers": workers_per_trial, "gpus_per_worker": gpus_per_worker, "concurrent": concurrent},
        "keep_checkpoints": keep_checkpoints,
        "optuna_storage": optuna_storage,
    }
    settings = StudySettings.from_dict(asked)
    return tune_with(
        loaded, searched, study, settings, from_study=from_study, address=address, doctor=doctor, progress=progress
    )


def tune_with(
    config: Config,
    space: SearchSpace,
    study: PathOrAddress,
    settings: StudySettings,
    *,
    from_study: PathOrAddress | Sequence[PathOrAddress] = (),
    address: str | None = None,
    doctor: bool = True,
    progress: StudyProgress = None,
) -> Study:
    """`tune` with the typed settings, some of which it has no argument for. Errors are those of `tune`."""
    trials = settings.budget.trials
    what = f"{'' if trials is None else f'{trials} '}trials of {describe_training(config)}"
    log.info("study %s: %s; logs: %s/trials/*/log.txt", study, what, os.fspath(study).rstrip("/"))
    require_loggers(config.LOGGERS, study)
    points, prior = knowledge_of(_paths(from_study), config, space, settings)
    new = new_study(study, config, space, settings, points=points, prior=prior)
    with ExitStack() as stack:
        # Both take seconds. Ray starts in this thread, as its processes end with the one that has started them.
        checking = stack.enter_context(ThreadPoolExecutor(1)).submit(_check, config, space, settings, doctor)
        with still(log, "starting Ray and reading the data"):
            from raytune_m2f.launch.session import ray_session

            stack.enter_context(ray_session(address))
            notes = [*unread_priors(space, settings), *checking.result()]
            from raytune_m2f.drive.runner import run_study  # now: two threads must not import torch at once
        for note in notes:
            log.warning("%s", note)
        told = stack.enter_context(as_context(progress or StudyLines()))
        run_study(new, address=address, progress=told, trust=True)  # the user has just given the configuration
    return _warned(Study(new.directory), progress)


def _check(config: Config, space: SearchSpace, settings: StudySettings, doctor: bool) -> list[str]:
    from raytune_m2f.drive.preflight import check_before_start  # imports torch

    return check_before_start(
        config,
        space,
        workers=settings.resources.most_workers,
        asked=settings.asked,
        stops=settings.early_stopping.method != "none",
        doctor=doctor,
    )


def _warned(study: Study, progress: StudyProgress) -> Study:
    """The study; says on stderr if nothing was found, or why it ended early, unless a `progress` of the caller decides
    what is said."""
    status = study.status() if progress is None else None
    for words in (caveat(status), flat_words(status)) if status is not None else ():
        if words is not None:
            print_to_stderr(words)
    return study


def space_of(space: Space, config: Config) -> SearchSpace:
    """A search space for this configuration. Raises SearchSpaceError if it is wrong, or not for it."""
    if not isinstance(space, SearchSpace):
        return load_space(os.fspath(space), config)
    check_space(space, config)
    return space


def _several(texts: str | Sequence[str]) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(texts)


def _paths(paths: PathOrAddress | Sequence[PathOrAddress]) -> Sequence[PathOrAddress]:
    return (paths,) if isinstance(paths, str | os.PathLike) else paths


def resume(
    study: PathOrAddress,
    *,
    concurrent: int | None = None,
    address: str | None = None,
    trust: bool = False,
    progress: StudyProgress = None,
) -> Study:
    """Go on with a study that was interrupted or killed; see `Study.resume`."""
    return Study(study).resume(concurrent=concurrent, address=address, trust=trust, progress=progress)


class Study:
    """A study: one that runs now, elsewhere too, or that has ended. What is read is read anew each time.

    Raises:
        StudyError: there is none.
    """

    def __init__(self, study: PathOrAddress | StudyDirectory) -> None:
        self._directory = StudyDirectory.at(study)
        self._directory.require()
        self.address = str(self._directory)
        """Its directory, absolute, or its address on a store."""

    def __repr__(self) -> str:
        return f"Study({relative(self.address)!r}: {short_line(self.status())})"

    def status(self, *, insight: bool = False) -> StudyStatus:
        """How it stands: trials, budget, the best trial, who runs it, how long still.

        Args:
            insight: what it has learned too; see `insight`.
        """
        self._directory.pull()
        return study_status(self._directory, insight=insight)

    def insight(self) -> Insight:
        """What it has learned: which keys matter and where they are best, whether short trainings rank like long ones,
        what ten more trials would bring, and the noise. Takes a second or two."""
        found = self.status(insight=True).insight
        assert found is not None
        return found

    @property
    def trials(self) -> list[TrialStatus]:
        """Its trials, in the order in which they were asked for."""
        return self.status().trials

    @property
    def best(self) -> TrialStatus | None:
        """The trial with the best report among those that can be exported."""
        return self.status().best_trial

    def train_command(self, trial: int | None = None) -> str:
        """The command line that trains a trial again, from the start to its end: the same configuration and seed.

        Args:
            trial: None: the best one.

        Raises:
            StudyError: there is no such trial, it has not begun to train, or none has weights.
        """
        status = self.status()
        found = status.trial_to_export() if trial is None else status.trial(trial)
        self._directory.pull_trial(found.number)
        file = self._directory.trial(found.number) / CONFIG
        if not file.is_file():
            raise StudyError(f"trial {found.number} has no {CONFIG} in {found.directory}: it has not begun to train.")
        log.info("%s", trial_line(found, status))
        if found.origin == "pbt":
            log.warning("it went on from the checkpoint of a better trial: from the start it may come out otherwise")
        config = relative(str(file))
        if (address := self._directory.address_of(file)) != str(file):
            log.warning("copy %s to this directory first: `train` reads configurations from disk", address)
            config = CONFIG
        resources = StudyPlan.load(self._directory.plan_file, only_shown=True).settings.resources
        return train_command(config, self.address, found, resources)

    def trials_dataframe(self) -> pd.DataFrame:
        """A row for each trial, by its number: state, scores, and a column for every searched key.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingDependencyError(
                "a table of trials needs pandas, which is not installed: pip install pandas"
            ) from error
        status = self.status()
        return pd.DataFrame([_row(trial, status.metrics) for trial in status.trials]).set_index("number")

    def report(
        self,
        output: PathOrAddress | None = None,
        *,
        pictures: int = PICTURES,
        test_images: int = TEST_IMAGES,
        device: str | None = None,
        watch: bool = False,
        trust: bool = False,
        progress: WorkProgress = None,
    ) -> Path:
        """Write all that it tells as one file of HTML, which opens from disk without a network; returns the file.

        Args:
            output: the file; a report that is there already is replaced. None: report.html in its directory.
            pictures: so many test images, with the ground truth and the predictions of the best three trials and of the
                configuration's own; 0: none.
            test_images: on so many test images at most, evenly spread, the best trial is evaluated, for the heads'
                accuracy and confusion; 0: not at all. While somebody drives the study it is not.
            device: predicts, such as "cpu" or "cuda:1"; None: the GPU if there is one, and nobody drives the study.
            watch: write it again and again until nobody drives the study.
            trust: whether Python files that its configuration names (DATASETS.IMPORT) may run.
            progress: told how far the predictions are; None prints lines to stderr.

        Raises:
            StudyError: there is no such study, or it has no trials yet.
            InputError: an argument is out of its bounds, or a file of the user's would be written over.
        """
        from raytune_m2f.api.reporting import write_report

        with as_context(progress or line_progress("predicting", print_to_stderr, "step")) as told:
            return write_report(
                self._directory,
                output,
                pictures=pictures,
                test_images=test_images,
                device=device,
                watch=watch,
                trust=trust,
                progress=told,
            )

    def resume(
        self,
        *,
        concurrent: int | None = None,
        address: str | None = None,
        trust: bool = False,
        progress: StudyProgress = None,
    ) -> Study:
        """Go on with it; unfinished trials continue from their checkpoints.

        Args:
            concurrent: trials at once at most; None: what the study says.
            address: of a Ray cluster, such as "auto"; None: this machine.
            trust: whether Python files that its configuration names (DATASETS.IMPORT) may run.
            progress: follows the study; None prints lines to stderr.

        Raises:
            StudyError: somebody runs it, its record is damaged, or its data have other labels than when it began.
            ConfigError: its configuration names Python files and is not trusted.
            TrainingError: every trial failed, or the first ones all failed alike.
        """
        log.info("study %s: going on with it", relative(self.address))
        self._run(self._directory, None, concurrent, address, trust, progress)
        return _warned(self, progress)

    def _run(
        self,
        target: StudyDirectory | NewStudy,
        extension: Extension | None,
        concurrent: int | None,
        address: str | None,
        trust: bool,
        progress: StudyProgress,
    ) -> None:
        from raytune_m2f.drive.runner import run_study

        with as_context(progress or StudyLines()) as told:
            run_study(target, extension=extension, concurrent=concurrent, address=address, trust=trust, progress=told)

    def extend(
        self,
        *,
        trials: int | None = None,
        time: str | float | None = None,
        iterations: int | None = None,
        gpu_hours: float | None = None,
        space: Space | None = None,
        concurrent: int | None = None,
        address: str | None = None,
        trust: bool = False,
        progress: StudyProgress = None,
    ) -> Study:
        """Raise its limits by so much, or change its search space for the trials to come, and go on with it.

        The other arguments are those of `resume`, the errors too; StudyError also if that would change nothing.
        """
        log.info("study %s: reading it, to go on with more", relative(self.address))
        searched = None
        if space is not None:
            plan = plan_of(self._directory, trust=trust)
            searched = space_of(space, plan.config)
            for note in unread_priors(searched, plan.settings):
                log.warning("%s", note)
        more = Extension(
            trials=trials,
            iterations=iterations,
            seconds=parse_duration(time),
            gpu_hours=gpu_hours,
            space=searched,
        )
        self._run(self._directory, more, concurrent, address, trust, progress)
        return _warned(self, progress)

    def confirm(
        self,
        top: int = 3,
        seeds: int = 3,
        *,
        concurrent: int | None = None,
        address: str | None = None,
        trust: bool = False,
        progress: StudyProgress = None,
    ) -> Confirmation:
        """Train the best `top` trials again under `seeds` new seeds, in its subdirectory `confirm`, and compare them.

        Called again it goes on, or adds what a larger `top` or `seeds` asks for. The other arguments are those of
        `resume`.

        Raises:
            StudyError: it has not so many different trials with a score; what `resume` raises.
            TrainingError: no training came to its end.
        """
        from raytune_m2f.study.confirm import plan_confirmation

        name = relative(self.address)
        log.info("study %s: its best %d again under %d new seeds, in %s/confirm", name, top, seeds, name)
        planned = plan_confirmation(self._directory, top=top, seeds=seeds, trust=trust)
        self._run(planned.target, planned.extension, concurrent, address, trust, progress)
        return planned.compare()

    def export(
        self,
        output: PathOrAddress,
        *,
        trial: int | None = None,
        iteration: int | None = None,
        skip_verify: bool = False,
        trust: bool = False,
        progress: WorkProgress = None,
    ) -> LoadedModel:
        """Export a trial's best checkpoint to the directory `output`, and load the model; see `export_model`."""
        export_model(
            self.address,
            output,
            trial=trial,
            iteration=iteration,
            skip_verify=skip_verify,
            trust=trust,
            progress=progress,
        )
        return load_model(output, trust=trust)


def _row(trial: TrialStatus, metrics: Sequence[str]) -> dict[str, Any]:
    """A trial as flat columns; "best" by the name of its metric."""
    own = {key: value for key, value in vars(trial).items() if key not in ("values", "others", "best")}
    scores = dict(zip(metrics, [trial.best, *trial.others], strict=False))
    return {"number": trial.number, "state": trial.state, **scores, **trial.values, **own}
