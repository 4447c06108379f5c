"""Between Ray Tune and the driver: Tune asks for trials, brings their reports, and is told when to end.

Nothing of Tune's own bookkeeping is used: its `OptunaSearch` tells Optuna the last report instead of the best, a
stopped trial as complete, and hangs on NaN. A trial that has to stop is not stopped by Tune either, which would kill
its process and leave the workers' resources behind; it is asked to return (`Driver.on_report`). Nor does Tune try a
trial again whose process died: the driver hands it out once more, as after a kill of the driver.
"""

from __future__ import annotations

import json
import shutil
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
from raytune_m2f.launch.groups import GROUP, WorkerGroups, noted_group, release_workers
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.nodes import is_lost, noted_node
from raytune_m2f.launch.place import Place
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.training.trial_dir import add_to_log

Result = TypeVar("Result")
WAITING_BYTES = 2**30  # of a trial whose workers train: its own process and Ray Train's controller


def run_tune(driver: Driver, job: TrialJob) -> None:
    """Let Tune run the trials that the driver hands out, until it hands out no more or has halted.

    Raises:
        RaytuneM2FError: Tune itself has failed.
    """
    study = driver.record.directory
    for number in driver.record.unfinished():  # a driver that was killed could not
        _noted_group(study, number)
        release_workers(study.trial(number))
    groups = WorkerGroups(lambda number: _noted_group(study, number), job.bundle) if job.workers[1] > 1 else None
    searcher = OptunaRecordSearcher(driver, groups)
    shutil.rmtree(study.ray, ignore_errors=True)
    try:
        _tuner(driver, searcher, job).fit()
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


def _tuner(driver: Driver, searcher: OptunaRecordSearcher, job: TrialJob) -> tune.Tuner:
    study = driver.record.directory
    return tune.Tuner(
        tune.with_resources(partial(_run_suggested, job, study.address_of(study.trials)), _resources(job)),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=RecordScheduler(driver, searcher),
            num_samples=-1,  # the searcher says when there are no more, and how many run at once
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


def _run_suggested(job: TrialJob, trials: str, suggested: dict[str, Any]) -> None:
    """Tune's trainable, in the process of a trial: run what the searcher suggested.

    Args:
        trials: path or address of the folder of all trials' directories.
    """
    from raytune_m2f.launch.trial import run_trial  # with torch, which the driver need not wait for

    number = suggested["number"]
    run_trial(job, Place.at(trials, f"{number:04d}"), number, suggested["values"])


def _resources(job: TrialJob) -> PlacementGroupFactory:
    """Of the trial's own process; with several workers it only waits, and Ray Train asks for theirs.

    A process that asks for a part of a CPU would keep the last worker from getting a whole one, and Tune refuses one
    that asks for nothing: it asks for the memory that it and Ray Train's controller take, so that such processes are
    spread over the nodes and not packed onto the head.
    """
    return PlacementGroupFactory([{"memory": WAITING_BYTES} if job.workers[1] > 1 else job.bundle])


class Guard:
    """An error in the driver ends the study with that error; Tune would log it and mark a trial as failed."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def __call__(self, action: Callable[[], Result], default: Result) -> Result:
        if self.driver.error is not None:
            return default
        try:
            return action()
        except Exception as error:
            self.driver.error = error
            self.driver.halted = f"the driver failed: {error}"
            return default


class OptunaRecordSearcher(Searcher):  # type: ignore[misc]  # Ray is not typed
    """Hands Tune the trials of the record: `{"number": 7, "values": {...}}`."""

    def __init__(self, driver: Driver, groups: WorkerGroups | None = None) -> None:
        super().__init__()
        self._driver = driver
        self._groups = groups
        self._guard = Guard(driver)
        self._numbers: dict[str, int] = {}
        self.crashes: dict[str, tuple[str, bool]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial; None if there is none yet, `FINISHED` if there will be none."""
        handed = self._guard(self._driver.next_trial, None)
        if handed is None:
            over = self._driver.finished or self._driver.error is not None
            return str(Searcher.FINISHED) if over else None
        number, values = handed
        self._numbers[trial_id] = number
        return {"number": number, "values": values}

    def number(self, trial_id: str) -> int:
        return self._numbers[trial_id]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        crash, lost = self.crashes.pop(trial_id, ("its process died", False)) if error else (None, False)
        number = self._numbers[trial_id]
        self._guard(lambda: self._driver.on_end(number, crash, lost=lost), None)
        if self._groups is not None:
            groups = self._groups
            self._count(lambda: groups.ended(number))
        self.sweep()

    def sweep(self, *, often: bool = False) -> None:
        """Free what ended trials have left in the cluster, and count it; see `WorkerGroups.sweep`."""
        if self._groups is not None:
            groups = self._groups
            self._count(lambda: groups.sweep(self._driver.running, often=often))

    def _count(self, free: Callable[[], int]) -> None:
        freed = self._guard(free, 0)
        if freed:
            self._guard(lambda: self._driver.record.note_leaks(freed), None)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the record is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: a new searcher on the same record continues."""


class RecordScheduler(FIFOScheduler):  # type: ignore[misc]
    """Sees each report before Tune lets the trial continue, and the reason of each crash."""

    def __init__(self, driver: Driver, searcher: OptunaRecordSearcher) -> None:
        super().__init__()
        self._driver = driver
        self._searcher = searcher
        self._guard = Guard(driver)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = self._searcher.number(trial.trial_id)
        self._guard(lambda: self._driver.on_report(number, json.loads(result["report"])), None)
        return str(FIFOScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """The trial's process died; the searcher is told next."""
        self._guard(lambda: self._note_crash(trial), None)

    def _note_crash(self, trial: Trial) -> None:
        study, number = self._driver.record.directory, self._searcher.number(trial.trial_id)
        study.pull_trial(number)
        text, output_dir = _error_text(trial), study.trial(number)
        study.push(add_to_log(output_dir, text))
        node = noted_node(output_dir)
        self._searcher.crashes[trial.trial_id] = last_line(text), node is not None and is_lost(node)


class DriverStopper(Stopper):  # type: ignore[misc]
    """Ends the experiment when the driver has halted; what runs is left unfinished in the record."""

    def __init__(self, driver: Driver, searcher: OptunaRecordSearcher) -> None:
        self._driver = driver
        self._searcher = searcher
        self._guard = Guard(driver)

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        self._guard(self._driver.tick, None)
        self._searcher.sweep(often=True)
        return self._driver.halted is not None


def _error_text(trial: Trial) -> str:
    """What Tune has written of the latest crash; `Trial.get_error` reads a copy that is made later."""
    path = Path(trial.error_file or "")
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def last_line(error: str) -> str:
    """The line of Ray's many that says what happened."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1] if lines else "its process died"
