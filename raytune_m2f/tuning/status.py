"""How a study stands, read from its directory alone: while a driver runs, after it was killed, years later."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import StudyError
from raytune_m2f.training.checkpoint import BEST
from raytune_m2f.tuning.record import Record, best_value, trained_seconds
from raytune_m2f.tuning.study import StudyDirectory, StudyPlan

STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class TrialStatus:
    """One trial.

    Attributes:
        state: waiting, running, unfinished (it ran and no driver runs it now), complete, stopped (early) or failed.
        origin: `config` or `published` for a known-good point that went first, else None.
        iteration, max_iter: of the latest report, and of the end; optimizer steps.
        last, best: the metric at the latest report and at the best one, which was at `best_iteration`.
        values: the searched keys.
        seconds: time in which it trained.
        cause: why it failed or was stopped.
        checkpoint: the best weights, if they are there.
    """

    number: int
    state: str
    origin: str | None
    iteration: int
    max_iter: int
    last: float | None
    best: float | None
    best_iteration: int | None
    values: dict[str, Any]
    seconds: float
    cause: str | None
    directory: str
    checkpoint: str | None


@dataclass(frozen=True)
class StudyStatus:
    """A study.

    Attributes:
        driver: who runs it now, None if nobody does.
        budget, usage: limits (None: no limit) and what is used: trials, iterations, seconds, gpu_hours.
        best: number of the trial with the best report, among those that did not fail and whose weights are there.
    """

    directory: str
    metric: str
    driver: str | None
    budget: dict[str, float | None]
    usage: dict[str, float]
    best: int | None
    trials: list[TrialStatus]

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return dict(Counter(trial.state for trial in self.trials))

    @property
    def best_trial(self) -> TrialStatus | None:
        return None if self.best is None else self.trials[self.best]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


def study_status(directory: str | PathLike[str]) -> StudyStatus:
    """Read how a study stands; nothing is written, also when a driver runs.

    Raises:
        StudyError: there is no study.
    """
    study = StudyDirectory.at(directory)
    study.require()
    record = Record(study, StudyPlan.load(study.plan_file), writable=False)
    return status_of(record, study.driver())


def status_of(record: Record, driver: str | None) -> StudyStatus:
    """The status of an open record."""
    trials = [_trial_status(record, trial, driver is not None) for trial in record.trials()]
    settings = record.plan.settings
    return StudyStatus(
        directory=str(record.directory.root),
        metric=settings.metric,
        driver=driver,
        budget=settings.budget.model_dump(),
        usage=record.usage().model_dump(),
        best=_best(trials),
        trials=trials,
    )


def best_trial(directory: str | PathLike[str]) -> TrialStatus:
    """The trial to export.

    Raises:
        StudyError: no trial has a report and its weights yet.
    """
    status = study_status(directory)
    if status.best_trial is None:
        raise StudyError(
            f"no trial of the study {status.directory} has weights to use yet ({_in_words(status.counts)}). "
            "Run it on with `raytune-m2f resume`."
        )
    return status.best_trial


def trial_to_export(directory: str | PathLike[str], number: int | None = None) -> TrialStatus:
    """The trial with this number, or the best one.

    Raises:
        StudyError: there is no such trial, or it has no weights yet.
    """
    if number is None:
        return best_trial(directory)
    status = study_status(directory)
    trial = next((trial for trial in status.trials if trial.number == number), None)
    if trial is None or trial.checkpoint is None:
        usable = [str(trial.number) for trial in status.trials if trial.checkpoint is not None]
        what = "does not exist" if trial is None else "has no weights"
        raise StudyError(
            f"trial {number} of the study {status.directory} {what}. "
            f"Trials with weights: {', '.join(usable) or 'none yet'}."
        )
    return trial


def _best(trials: list[TrialStatus]) -> int | None:
    scored = [
        (trial.best, -trial.number)
        for trial in trials
        if trial.best is not None and trial.checkpoint is not None and trial.state != "failed"
    ]
    return -max(scored)[1] if scored else None


def _trial_status(record: Record, trial: FrozenTrial, driven: bool) -> TrialStatus:
    attributes = trial.user_attrs
    output_dir = record.directory.trial(trial.number)
    weights = output_dir / "checkpoints" / BEST
    unfinished = trial.state == TrialState.RUNNING and not driven
    last = trial.last_step
    return TrialStatus(
        number=trial.number,
        state="unfinished" if unfinished else STATES[trial.state],
        origin=attributes.get("origin"),
        iteration=last or 0,
        max_iter=record.max_iter(trial),
        last=None if last is None else trial.intermediate_values[last],
        best=best_value(trial),
        best_iteration=attributes.get("best_iteration"),
        values=dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {})),
        seconds=trained_seconds(trial),
        cause=attributes.get("cause") or attributes.get("stopped"),
        directory=str(output_dir),
        checkpoint=str(weights) if weights.exists() else None,
    )


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "it has no trials"


def relative(path: str) -> str:
    """A path as short as it can be typed here."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
