"""A trial as a search sees it: its values, and how it scored at each report."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import NonFiniteLossError, OutOfMemoryError

State = Literal["running", "ended", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",  # also one that waits at a rung
    TrialState.COMPLETE: "ended",
    TrialState.PRUNED: "ended",
    TrialState.FAIL: "failed",
}
OF_THE_VALUES = (NonFiniteLossError.__name__, OutOfMemoryError.__name__)
"""Failures that say where not to go; others are not the values' fault, and say nothing."""
ALIKE = 5
"""Whole curves by which the end of another is estimated."""


@dataclass(frozen=True)
class Curve:
    """What a trial has shown so far.

    Attributes:
        values: what was drawn for it, key by key.
        scores: {iteration: score}, ascending; the higher the better. Where the metric is flat they are of what the
            study climbs in its place (`climbed` of the trial's attributes).
        state: "failed" is a trial that diverged or had no memory: nothing is known but that.
        task: empty, or where the earlier study is that it was run in; its iterations are as shares of ours.
        feasible: whether it keeps the study's constraints.
    """

    values: Mapping[str, Any]
    scores: Mapping[int, float] = field(default_factory=dict)
    state: State = "ended"
    task: str = ""
    feasible: bool = True

    @property
    def last(self) -> int:
        """The iteration of the last report; 0 without one."""
        return max(self.scores, default=0)

    @property
    def best(self) -> float:
        """The highest score so far; -inf without one."""
        return max(self.scores.values(), default=float("-inf"))


def curves_of(trials: Iterable[FrozenTrial]) -> list[Curve]:
    """The trials that have begun, in their order; without those that failed for a reason of their own."""
    return [curve for _, curve in numbered_curves(trials)]


def numbered_curves(trials: Iterable[FrozenTrial]) -> list[tuple[int, Curve]]:
    """The same, each with its trial's number."""
    return [(trial.number, curve_of(trial)) for trial in trials if trial.params and _says_something(trial)]


def _says_something(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.FAIL:
        return trial.user_attrs.get("error_type") in OF_THE_VALUES
    return trial.state != TrialState.WAITING


def curve_of(trial: FrozenTrial) -> Curve:
    """A trial that has begun."""
    state = STATES[trial.state]
    return Curve(
        values=trial.params,
        scores={} if state == "failed" else scores_of(trial),
        state=state,
        task=str(trial.user_attrs.get("prior", "")).partition(" of ")[2],
        feasible=all(violation <= 0 for violation in trial.constraints.values()),
    )


def scores_of(trial: FrozenTrial) -> dict[int, float]:
    """{iteration: score}, ascending: the metric, or where it is flat what is climbed in its place."""
    climbed = trial.user_attrs.get("climbed", {})  # JSON has no whole numbers as keys
    return {step: float(climbed.get(str(step), value)) for step, value in sorted(trial.intermediate_values.items())}


def estimated_end(curve: Curve, whole: Sequence[Curve], max_iter: int) -> float:
    """What a curve with a score would reach at the end: its best so far, and what the whole curves that were most like
    it at that iteration have gained from there on (the median of them)."""
    last = curve.last
    if last >= max_iter:
        return curve.best
    gains = sorted(
        (abs(there - curve.best), other.best - there)
        for other in whole
        if (there := max((s for i, s in other.scores.items() if i <= last), default=None)) is not None
    )
    return curve.best + statistics.median([gain for _, gain in gains[:ALIKE]] or [0.0])
