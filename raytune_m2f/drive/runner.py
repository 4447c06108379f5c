"""Running a study: start, resume and extend are this one path.

open the record -> reconcile it with what the trials left -> hand out what is unfinished, then what the budget allows
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from ray.tune import PlacementGroupFactory
from sqlalchemy.exc import SQLAlchemyError

from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.ray_tune import DriverStopper, OptunaRecordSearcher, RecordScheduler
from raytune_m2f.drive.resources import Allotment, Node, Room, allot, cluster_nodes, largest_cluster
from raytune_m2f.errors import RaytuneM2FError, StudyError, TrainingError
from raytune_m2f.launch.groups import GROUP, WorkerGroups, noted_group, release_workers
from raytune_m2f.launch.session import ray_session
from raytune_m2f.launch.trial import TRAIN_TRIAL, TrialFunction, TrialJob, run_trial
from raytune_m2f.study.directory import StudyDirectory, StudyPlan
from raytune_m2f.study.extend import Extension
from raytune_m2f.study.layout import NewStudy
from raytune_m2f.study.layout import create_study as create_study
from raytune_m2f.study.outlook import has_work
from raytune_m2f.study.points import known_good_points
from raytune_m2f.study.record.attributes import failure_in_words
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.record.record import Record
from raytune_m2f.study.same_data import compare_data
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.status import Progress, Silent, StatusReader, StudyStatus

log = logging.getLogger(__name__)

PROGRESS_S = 0.3  # a terminal need not be redrawn more often
WAITING_BYTES = 2**30  # of a trial whose workers train: two processes that have imported torch


class Throttle:
    """Lets something happen at most once in `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def allows(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def run_study(
    directory: str | PathLike[str] | StudyDirectory | NewStudy,
    *,
    address: str | None = None,
    concurrent: int | None = None,
    progress: Progress | None = None,
    trial_function: str | TrialFunction = TRAIN_TRIAL,
    extension: Extension | None = None,
    trust: bool = False,
) -> StudyStatus:
    """Run a study, new or begun, until its budget is used up.

    Args:
        directory: of the study. One that is new is laid out once it is known that its trials fit the cluster.
        address: of a Ray cluster, None for this machine; see `ray_session`.
        concurrent: trials at once at most in this run; None: what the study says.
        progress: told at each change.
        trial_function: instead of `train_trial`; tests use this seam.
        extension: added to the plan first, for good.
        trust: whether Python files that the study's configuration names (DATASETS.IMPORT) may run, here and in its
            trials; who has just given that configuration may say so.
    Raises:
        ConfigError: the configuration names Python files and is not trusted.
        StudyError: no study, another driver runs it, its record is damaged, its data have other labels than when it
            began, or a trial does not fit the cluster.
        TrainingError: every trial failed, or the first ones all failed alike.
        RaytuneM2FError: the record could not be written.
        KeyboardInterrupt: Ctrl-C; the study can be resumed.
    """
    progress = progress or Silent()
    with ExitStack() as stack:
        if isinstance(directory, NewStudy):
            stack.enter_context(ray_session(address))
            _allotment(directory.plan.settings, concurrent, _largest(address))
            study = stack.enter_context(directory.laid_out())
        else:
            study = StudyDirectory.at(directory)
            study.require()
            stack.enter_context(study.locked())
        record = Record(study, StudyPlan.load(study.plan_file, trust=trust))
        if extension is not None:
            record = Record(study, extension.of(record.plan, record.usage(), record.trials()))
        for note in enqueue_points(record):
            progress.note(note)
        unfinished = record.reconcile()
        if not has_work(record):
            study.save(record.plan)
        else:
            for note in compare_data(record.plan.config, record.plan.data, str(study)):
                progress.note(note)
            stack.enter_context(ray_session(address))
            _run(record, unfinished, address, concurrent, progress, trial_function)
        _require_a_score(record)
        return StatusReader(record).read(driver=None)


def _run(
    record: Record,
    unfinished: list[int],
    address: str | None,
    concurrent: int | None,
    progress: Progress,
    trial_function: str | TrialFunction,
) -> None:
    largest = _largest(address)
    allotment = _allotment(record.plan.settings, concurrent, largest)
    log.info(
        "trials on %s, %d at once, each %s of %d CPUs; their logs: %s/*/log.txt",
        "a GPU" if allotment.gpus_per_trial else "the CPU",
        allotment.room(cluster_nodes()),
        "1 worker" if allotment.workers[1] == 1 else f"{allotment.workers[1]} workers",
        allotment.cpus_per_worker,
        record.directory.address_of(record.directory.trials),
    )
    record.directory.save(record.plan)  # an extension counts only now that it can be run
    room = Room(allotment, largest, progress.note)
    try:
        _drive(record, unfinished, allotment, room, progress, trial_function)
    finally:
        room.withdraw()


def _largest(address: str | None) -> list[Node] | None:
    return largest_cluster() if address is not None else None


def enqueue_points(record: Record) -> list[str]:
    """Queue what is tried before the sampler is asked; returns notes for the user."""
    plan = record.plan
    if plan.settings.sampler == "grid":  # its points are all there is
        record.enqueue(plan.points)
        return []
    known_good, notes = known_good_points(plan)
    record.enqueue([*known_good.items(), *plan.points])
    return notes


def _allotment(settings: StudySettings, concurrent: int | None, largest: Sequence[Node] | None) -> Allotment:
    wanted = settings.resources
    if concurrent is not None:
        wanted = wanted.model_copy(update={"concurrent": concurrent})
    allotment = allot(cluster_nodes(), wanted, settings.budget.trials, largest)
    if settings.budget.gpu_hours is not None and not allotment.gpus_per_trial:
        raise StudyError("the budget is in GPU-hours, but the trials get no GPU. Give a budget in trials or time.")
    return allotment


def _drive(
    record: Record,
    unfinished: list[int],
    allotment: Allotment,
    room: Room,
    progress: Progress,
    trial_function: str | TrialFunction,
) -> None:
    settings = record.plan.settings
    reader, shown = StatusReader(record), Throttle(PROGRESS_S)

    def show() -> None:
        if shown.allows():
            progress.update(reader.read(driver="this process"))

    driver = Driver(record, unfinished, gpus_per_trial=allotment.gpus_per_trial, room=room, on_change=show)
    job = TrialJob(
        config=record.plan.config.to_dict(),
        metrics=settings.metrics,
        constraints=settings.constraints,
        workers=allotment.workers,
        cpus_per_worker=allotment.cpus_per_worker,
        gpus_per_worker=allotment.gpus_per_worker,
        crash_retries=settings.crash_retries,
        keep=record.index.to_keep,
        store=record.directory.store,
        function=trial_function,
    )
    try:
        _run_tune(driver, job, allotment)
    finally:
        progress.update(reader.read(driver="this process"))
    _raise_if_broken(driver)


def _run_tune(driver: Driver, job: TrialJob, allotment: Allotment) -> None:
    study = driver.record.directory
    trials = study.trials  # all that the function below takes along

    def trial(handed: dict[str, Any]) -> None:
        number = handed["number"]
        run_trial(job, trials / f"{number:04d}", number, handed["values"])

    def group_of(number: int) -> str | None:
        study.fetch(study.trial(number) / GROUP)
        return noted_group(study.trial(number))

    for number in driver.record.unfinished():  # a driver that was killed could not
        study.fetch(study.trial(number) / GROUP)
        release_workers(study.trial(number))
    groups = WorkerGroups(group_of, allotment.bundle) if allotment.workers[1] > 1 else None
    searcher = OptunaRecordSearcher(driver, groups)
    shutil.rmtree(study.ray, ignore_errors=True)
    tuner = tune.Tuner(
        tune.with_resources(trial, _resources(allotment)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RecordScheduler(driver, searcher),
            num_samples=-1,  # the searcher says when it is enough, and how many run at once
            reuse_actors=True,  # a trial starts at once where the one before it has imported torch
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.ray),
            stop=DriverStopper(driver, searcher),
            failure_config=tune.FailureConfig(max_failures=0),  # the driver tries again
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except Exception as error:
        if driver.halted is None:  # else the driver knows why; Tune stumbles over its own files that a full disk left
            raise RaytuneM2FError(
                f"Ray Tune has failed: {error!r}. What the trials reported is kept: `raytune-m2f resume {study}`."
            ) from error
    finally:
        driver.running.clear()
        searcher.sweep()
        shutil.rmtree(study.ray, ignore_errors=True)


def _resources(allotment: Allotment) -> PlacementGroupFactory:
    """Of the trial's own process; with several workers it only waits, and Ray Train asks for theirs.

    A process that asks for a part of a CPU would keep the last worker from getting a whole one, and Tune refuses one
    that asks for nothing: it asks for the memory that it and Ray Train's controller take, so that such processes are
    spread over the nodes and not packed onto the head.
    """
    if allotment.workers[1] > 1:
        return PlacementGroupFactory([{"memory": WAITING_BYTES}])
    gpu = {"GPU": allotment.gpus_per_worker} if allotment.gpus_per_worker else {}
    return PlacementGroupFactory([{"CPU": allotment.cpus_per_worker, **gpu}])


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
