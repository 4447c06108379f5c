"""Between Ray Tune and the driver: Tune asks for trials, brings their reports, and is told when to end.

Nothing of Tune's own bookkeeping is used: its `OptunaSearch` tells Optuna the last report instead of the best, a
stopped trial as complete, and hangs on NaN. A trial that has to stop is not stopped by Tune either, which would kill
its process and leave the workers' resources behind; it is asked to return (`Driver.on_report`). Nor does Tune try a
trial again whose process died: the driver hands it out once more, as after a kill of the driver.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ray import tune
from ray.tune import PlacementGroupFactory, Stopper
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from raytune_m2f.drive.driver import Driver
from raytune_m2f.errors import RaytuneM2FError
from raytune_m2f.launch.groups import GROUP, WorkerGroups, held_groups, noted_group, release_workers
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.nodes import is_lost, noted_node
from raytune_m2f.launch.session import handlers_restored
from raytune_m2f.launch.trial import run_suggested
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.training.trial_dir import add_to_log

Result = TypeVar("Result")
DIED = "its process died"
WAITING_BYTES = 2**30  # of a trial whose workers train: its own process and Ray Train's controller


def run_tune(driver: Driver, job: TrialJob) -> None:
    """Let Tune run what the driver hands out, until that is all or it has halted. Raises if Tune itself has failed."""
    study = driver.record.directory
    for number in driver.record.unfinished():  # a driver that was killed could not
        _noted_group(study, number)
        release_workers(study.trial(number))
    groups = None
    if job.workers[1] > 1:
        groups = WorkerGroups(lambda number: _noted_group(study, number), partial(held_groups, job.bundle))
    searcher = OptunaRecordSearcher(driver, groups)
    shutil.rmtree(study.ray, ignore_errors=True)
    try:
        with handlers_restored(signal.SIGINT, signal.SIGUSR1):
            _tuner(searcher, job).fit()
    except Exception as error:
        if driver.halted is None:  # else the driver knows why; Tune stumbles over its own files that a full disk left
            raise RaytuneM2FError(
                f"Ray Tune has failed: {error!r}. What the trials reported is kept: `raytune-m2f resume {study}`."
            ) from error
    finally:
        driver.running.clear()
        searcher.sweep()
        shutil.rmtree(study.ray, ignore_errors=True)


def _noted_group(study: StudyDirectory, number: int) -> str | None:
    study.fetch(study.trial(number) / GROUP)
    return noted_group(study.trial(number))


def _tuner(searcher: OptunaRecordSearcher, job: TrialJob) -> tune.Tuner:
    study = searcher.driver.record.directory
    return tune.Tuner(
        tune.with_resources(partial(run_suggested, job, study.address_of(study.trials)), _resources(job)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RecordScheduler(searcher),
            num_samples=-1,  # the searcher says when there are no more, and how many run at once
            reuse_actors=True,  # a trial starts at once where the one before it has imported torch
            trial_dirname_creator=lambda trial: f"{trial.config['number']:04d}_{trial.trial_id}",
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(study.ray),
            stop=DriverStopper(searcher),
            failure_config=tune.FailureConfig(max_failures=0),  # the driver tries again
            verbose=0,
        ),
    )


def _resources(job: TrialJob) -> PlacementGroupFactory:
    """Of the trial's own process; with several workers it only waits, and Ray Train asks for theirs.

    A process that asks for a part of a CPU would keep the last worker from getting a whole one, and Tune refuses one
    that asks for nothing: it asks for the memory that it and Ray Train's controller take, so that such processes are
    spread over the nodes and not packed onto the head.
    """
    return PlacementGroupFactory([{"memory": WAITING_BYTES} if job.workers[1] > 1 else job.bundle])


class OptunaRecordSearcher(Searcher):  # type: ignore[misc]  # Ray is not typed
    """Hands Tune the trials of the record: `{"number": 7, "values": {...}}`."""

    def __init__(self, driver: Driver, groups: WorkerGroups | None = None) -> None:
        super().__init__()
        self.driver = driver
        self._groups = groups
        self._numbers: dict[str, int] = {}
        self._crashes: dict[str, tuple[str, bool]] = {}

    def guarded(self, action: Callable[[], Result], default: Result) -> Result:
        """An error in the driver ends the study with that error; Tune would log it and mark a trial as failed."""
        if self.driver.error is not None:
            return default
        try:
            return action()
        except Exception as error:
            self.driver.error = error
            self.driver.halted = f"the driver failed: {error}"
            return default

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None if there is none yet, `FINISHED` if there will be none."""
        handed = self.guarded(self.driver.next_trial, None)
        if handed is None:
            over = self.driver.finished or self.driver.error is not None
            return str(Searcher.FINISHED) if over else None
        self._numbers[trial_id], values = handed
        return {"number": self._numbers[trial_id], "values": values}

    def report(self, trial_id: str, report: str) -> None:
        """Tell the driver a report, as JSON."""
        self.guarded(lambda: self.driver.on_report(self._numbers[trial_id], json.loads(report)), None)

    def note_crash(self, trial: Trial) -> None:
        """Add to the trial's log how its process died, and look whether its node was lost; told to the driver next."""
        study, number = self.driver.record.directory, self._numbers[trial.trial_id]
        study.pull_trial(number)
        error = Path(trial.error_file or "")  # of the latest crash; `Trial.get_error` reads a copy that is made later
        text = error.read_text(encoding="utf-8", errors="replace").strip() if error.is_file() else ""
        study.push(add_to_log(study.trial(number), text))
        node = noted_node(study.trial(number))
        cause = text.rpartition("\n")[2].strip()  # the line of Ray's many that says what happened
        self._crashes[trial.trial_id] = cause or DIED, node is not None and is_lost(node)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the driver how a trial ended, and free what it has left."""
        crash, lost = self._crashes.pop(trial_id, (DIED, False)) if error else (None, False)
        number, groups = self._numbers[trial_id], self._groups
        self.guarded(lambda: self.driver.on_end(number, crash, lost=lost), None)
        if groups is not None:
            self._count(lambda: groups.ended(number))
        self.sweep()

    def sweep(self, *, often: bool = False) -> None:
        """Free what ended trials have left in the cluster, and count it; see `WorkerGroups.sweep`."""
        groups = self._groups
        if groups is not None:
            self._count(lambda: groups.sweep(self.driver.running, often=often))

    def _count(self, free: Callable[[], int]) -> None:
        freed = self.guarded(free, 0)
        if freed:
            self.guarded(lambda: self.driver.record.note_leaks(freed), None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a new searcher on the same record continues."""


class RecordScheduler(FIFOScheduler):  # type: ignore[misc]
    """Sees each report before Tune lets the trial continue, and the reason of each crash before its end."""

    def __init__(self, searcher: OptunaRecordSearcher) -> None:
        super().__init__()
        self._searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        self._searcher.report(trial.trial_id, result["report"])
        return str(FIFOScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._searcher.guarded(lambda: self._searcher.note_crash(trial), None)


class DriverStopper(Stopper):  # type: ignore[misc]
    """Ends the experiment when the driver has halted; what runs is left unfinished in the record."""

    def __init__(self, searcher: OptunaRecordSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._searcher.guarded(self._searcher.driver.tick, None)
        self._searcher.sweep(often=True)
        return self._searcher.driver.halted is not None
