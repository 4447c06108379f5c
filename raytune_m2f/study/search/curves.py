"""A trial as a search sees it: its values, and how it scored at each report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

State = Literal["running", "ended", "failed"]
STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",  # also one that waits at a rung
    TrialState.COMPLETE: "ended",
    TrialState.PRUNED: "ended",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Curve:
    """What a trial has shown so far.

    Attributes:
        values: what was drawn for it, key by key.
        scores: {iteration: score}, ascending; the higher the better. Where the metric is flat they are of what the
            study climbs in its place (`climbed` of the trial's attributes).
        state: "failed" is a trial that diverged or had no memory: nothing is known but that.
        task: empty, or where the earlier study is that it was run in; its iterations are as shares of ours.
    """

    values: Mapping[str, Any]
    scores: Mapping[int, float] = field(default_factory=dict)
    state: State = "ended"
    task: str = ""

    @property
    def last(self) -> int:
        """The iteration of the last report; 0 without one."""
        return max(self.scores, default=0)

    @property
    def best(self) -> float:
        """The highest score so far; -inf without one."""
        return max(self.scores.values(), default=float("-inf"))


def curves_of(trials: Iterable[FrozenTrial]) -> list[Curve]:
    """The trials that have begun, in their order."""
    return [
        Curve(
            values=trial.params,
            scores={**dict(sorted(trial.intermediate_values.items())), **_climbed(trial)},
            state=STATES[trial.state],
            task=str(trial.user_attrs.get("prior", "")).partition(" of ")[2],
        )
        for trial in trials
        if trial.state != TrialState.WAITING and trial.params
    ]


def _climbed(trial: FrozenTrial) -> dict[int, float]:
    """{iteration: score} where another signal than the metric is climbed; JSON has no whole numbers as keys."""
    return {int(step): float(score) for step, score in trial.user_attrs.get("climbed", {}).items()}
