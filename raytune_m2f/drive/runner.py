"""Running a study: start, resume and extend are this one path.

open the record -> reconcile it with what the trials left -> hand out what is unfinished, then what the budget allows
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.ray_tune import run_tune
from raytune_m2f.drive.resources import Allotment, Room, allot, cluster_nodes, largest_cluster
from raytune_m2f.errors import RaytuneM2FError, StudyError, TrainingError
from raytune_m2f.launch.job import TrialFunction, TrialJob
from raytune_m2f.launch.session import ray_session
from raytune_m2f.loggers.names import require_loggers
from raytune_m2f.study.commands import given_command
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import NewStudy
from raytune_m2f.study.plan import Extension, StudyPlan, compare_data
from raytune_m2f.study.points import known_good_points
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.attributes import failure_in_words
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.status import Progress, Silent, StatusReader, StudyStatus, has_work

log = logging.getLogger(__name__)

PROGRESS_S = 0.3  # a terminal need not be redrawn more often


def run_study(
    directory: str | PathLike[str] | StudyDirectory | NewStudy,
    *,
    address: str | None = None,
    concurrent: int | None = None,
    progress: Progress | None = None,
    trial_function: TrialFunction | None = None,
    extension: Extension | None = None,
    trust: bool = False,
) -> StudyStatus:
    """Run a study, new or begun, until its budget is used up.

    Args:
        directory: of the study. One that is new is laid out once it is known that its trials fit the cluster.
        address: of a Ray cluster, None for this machine; see `ray_session`.
        concurrent: trials at once at most in this run; None: what the study says.
        progress: told at each change.
        trial_function: instead of `train_trial`, for tests.
        extension: added to the plan first, for good.
        trust: whether Python files that the study's configuration names (DATASETS.IMPORT) may run, here and in its
            trials; True where the user has just given that configuration.

    Raises:
        ConfigError: the configuration names Python files and is not trusted.
        StudyError: no study, another driver runs it, its record is damaged, its data have other labels than when it
            began, or a trial does not fit the cluster.
        TrainingError: every trial failed, or the first ones all failed alike.
        RaytuneM2FError: the record could not be written.
        KeyboardInterrupt: Ctrl-C; the study can be resumed.
    """
    run = _Run(address, concurrent, progress or Silent(), trial_function)
    with ExitStack() as stack:
        if isinstance(directory, NewStudy):
            stack.enter_context(ray_session(address))
            run.allot(directory.plan.settings)
            study = stack.enter_context(directory.laid_out())
        else:
            study = StudyDirectory.at(directory)
            study.require()
            stack.enter_context(study.locked())
        record = Record(study, StudyPlan.load(study.plan_file, trust=trust))
        require_loggers(record.plan.config.LOGGERS, str(study))
        if extension is not None:
            record = Record(study, extension.of(record.plan, record.usage(), record.trials()))
        run.note(enqueue_points(record))
        unfinished = record.reconcile()
        if has_work(record):
            run.note(compare_data(record.plan.config, record.plan.data, str(study)))
            stack.enter_context(ray_session(address))
            record.note_command(given_command())
            run.drive(record, unfinished)
        else:
            study.save(record.plan)
        _require_a_score(record)
        return StatusReader(record).read(driver=None)


def enqueue_points(record: Record) -> list[str]:
    """Queue what is tried before the sampler is asked; returns notes for the user."""
    plan = record.plan
    if plan.settings.sampler == "grid":  # its points are all there is
        record.enqueue(plan.points)
        return []
    known_good, notes = known_good_points(plan)
    record.enqueue([*known_good.items(), *plan.points])
    return notes


@dataclass(frozen=True)
class _Run:
    """The options of `run_study`, and what it does on the cluster."""

    address: str | None
    concurrent: int | None
    progress: Progress
    function: TrialFunction | None

    def note(self, notes: list[str]) -> None:
        for note in notes:
            self.progress.note(note)

    def allot(self, settings: StudySettings) -> tuple[Allotment, Room]:
        """What a trial gets on the connected cluster. Raises StudyError if none can ever fit."""
        wanted = settings.resources
        if self.concurrent is not None:
            wanted = wanted.model_copy(update={"concurrent": self.concurrent})
        largest = largest_cluster() if self.address is not None else None
        allotment = allot(cluster_nodes(), wanted, settings.budget.trials, largest)
        if settings.budget.gpu_hours is not None and not allotment.gpus_per_trial:
            raise StudyError("the budget is in GPU-hours, but the trials get no GPU. Give a budget in trials or time.")
        return allotment, Room(allotment, largest, self.progress.note)

    def drive(self, record: Record, unfinished: list[int]) -> None:
        """Run trials until there is nothing to do, or the study was halted."""
        allotment, room = self.allot(record.plan.settings)
        study = record.directory
        log.info(
            "trials on %s, %d at once, each %s of %d CPUs; their logs: %s/*/log.txt",
            "a GPU" if allotment.gpus_per_trial else "the CPU",
            allotment.room(cluster_nodes()),
            "1 worker" if allotment.workers[1] == 1 else f"{allotment.workers[1]} workers",
            allotment.cpus_per_worker,
            study.address_of(study.trials),
        )
        study.save(record.plan)  # an extension counts only now that it can be run
        reader, shown = StatusReader(record), -math.inf

        def show(*, at_once: bool = False) -> None:
            nonlocal shown
            if at_once or time.monotonic() - shown >= PROGRESS_S:
                shown = time.monotonic()
                self.progress.update(reader.read(driver="this process"))

        driver = Driver(record, unfinished, gpus_per_trial=allotment.gpus_per_trial, room=room, on_change=show)
        try:
            run_tune(driver, self._job(record, allotment))
        finally:
            room.withdraw()
            show(at_once=True)
        _raise_if_broken(driver)

    def _job(self, record: Record, allotment: Allotment) -> TrialJob:
        settings = record.plan.settings
        return TrialJob(
            config=record.plan.config,
            metrics=settings.objectives,
            constraints=settings.bounds,
            workers=allotment.workers,
            cpus_per_worker=allotment.cpus_per_worker,
            gpus_per_worker=allotment.gpus_per_worker,
            crash_retries=settings.crash_retries,
            keep=record.index.to_keep,
            function=self.function,
        )


def _raise_if_broken(driver: Driver) -> None:
    if isinstance(driver.error, OSError | SQLAlchemyError | StorageInternalError):
        raise RaytuneM2FError(
            f"the study's record could not be written: {driver.error}. What it holds is intact: mend that, then "
            f"`raytune-m2f resume {driver.record.directory}`."
        ) from driver.error
    if driver.error is not None:
        raise driver.error
    if driver.breaker is not None:
        raise TrainingError(f"the study was stopped: {driver.halted}.\n{_failed(driver.record, driver.breaker)}")
    if driver.halted is None and (not driver.finished or driver.record.unfinished()):
        raise KeyboardInterrupt  # Tune takes the signal and returns as if all were well


def _require_a_score(record: Record) -> None:
    """A study without a single report has failed, if trials ran and none is left."""
    ended = [trial for trial in record.trials() if is_here(trial) and trial.state.is_finished()]
    if ended and all(trial.state == TrialState.FAIL for trial in ended) and not record.trials(TrialState.RUNNING):
        raise TrainingError(f"every trial failed; the last one:\n{_failed(record, ended[-1])}")


def _failed(record: Record, trial: FrozenTrial) -> str:
    return (
        f"{failure_in_words(trial, record.directory.address_of(record.directory.trial(trial.number) / 'log.txt'))}\n"
        f"When the cause is mended, go on with `raytune-m2f resume {record.directory}`."
    )
