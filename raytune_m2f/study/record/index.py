"""Totals over the trials that the driver needs at every event, kept up to date so that no event reads all trials.

It holds nothing that the record does not: it is built anew whenever the record is opened.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record.rungs import Rungs, default_grace, rung_iterations
from raytune_m2f.study.settings import Usage


def is_here(trial: FrozenTrial) -> bool:
    """Whether the trial was started in this study: it does not wait in the queue, nor is it knowledge from another."""
    return trial.state != TrialState.WAITING and "prior" not in trial.user_attrs


@dataclass
class Index:
    """Of the trials of a study.

    Attributes:
        ids: Optuna's identifier of each trial number.
        started: how many trials were started here.
        paused: the trials that wait, and at which rung.
        rungs: best values at the rungs.
        vacant: pbt: the trials that ended and were not replaced yet, and at which rung.
        heirs: pbt: the trials without a report of their own that start from another's checkpoint: whose, and at which
            iteration.
        max_iter: iterations of a whole trial.
        grace: iterations before which no trial is stopped.
    """

    plan: StudyPlan
    ids: dict[int, int] = field(default_factory=dict)
    started: int = 0
    paused: dict[int, int] = field(default_factory=dict)
    vacant: dict[int, int] = field(default_factory=dict)
    heirs: dict[int, tuple[int, int]] = field(default_factory=dict)
    rungs: Rungs = field(init=False)
    max_iter: int = field(init=False)
    grace: int = field(init=False)
    _used: dict[int, tuple[int, float]] = field(default_factory=dict)
    _iterations: int = 0
    _gpu_seconds: float = 0.0

    def __post_init__(self) -> None:
        config, stopping = self.plan.config, self.plan.settings.early_stopping
        self.max_iter = int(config.value("SOLVER.MAX_ITER"))
        grace = stopping.grace_iterations or default_grace(
            self.max_iter, config.value("TEST.EVAL_PERIOD"), stopping.method
        )
        factor = stopping.reduction_factor
        self.grace = grace
        self.rungs = Rungs(rung_iterations(stopping.method, grace, factor, self.max_iter), factor)

    def add(self, trial: FrozenTrial) -> None:
        """Take a trial that is new to the index, or was only queued before, with all its reports."""
        self.ids[trial.number] = trial._trial_id
        self.vacant.pop(trial.user_attrs.get("replaces", -1), None)
        self._note_heir(trial)
        if is_here(trial):
            self.started += 1
            for step, value in sorted(trial.intermediate_values.items()):
                self.rungs.note(trial.number, step, value, start=trial.user_attrs.get("start", 0))
            self._count(trial)

    def update(self, trial: FrozenTrial) -> None:
        """Take the latest report and the state of a trial."""
        last = trial.last_step
        if last is not None:
            value = trial.intermediate_values[last]
            self.rungs.note(trial.number, last, value, start=trial.user_attrs.get("start", 0))
        self._note_heir(trial)
        self._count(trial)

    def evaluation_at(self, rung: int) -> int:
        """The iteration of the first report at or after a rung, which is that of its checkpoint."""
        period = self.plan.config.value("TEST.EVAL_PERIOD") or self.max_iter
        return min(-(-rung // period) * period, self.max_iter)

    @property
    def to_keep(self) -> frozenset[int]:
        """pbt: the iterations whose checkpoints stay, for another trial may go on from what a trial was at a rung."""
        if self.plan.settings.early_stopping.method != "pbt":
            return frozenset()
        return frozenset(self.evaluation_at(rung) for rung in self.rungs.iterations)

    def usage(self, seconds: float) -> Usage:
        return Usage(
            trials=self.started,
            iterations=self._iterations,
            seconds=seconds,
            gpu_hours=self._gpu_seconds / 3600,
        )

    def _note_heir(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        if "parent" in attributes and trial.last_step is None and not trial.state.is_finished():
            self.heirs[trial.number] = attributes["parent"], attributes["start"]
        else:
            self.heirs.pop(trial.number, None)

    def _count(self, trial: FrozenTrial) -> None:
        number, attributes = trial.number, trial.user_attrs
        before = self._used.get(number, (0, 0.0))
        iterations = max(0, (trial.last_step or 0) - attributes.get("start", 0))
        self._used[number] = now = iterations, attributes.get("gpu_seconds", 0.0)
        self._iterations += now[0] - before[0]
        self._gpu_seconds += now[1] - before[1]
        if "replaced_at" in attributes and trial.state in (TrialState.PRUNED, TrialState.COMPLETE):
            self.vacant[number] = attributes["replaced_at"]
        rung = attributes.get("paused")
        if rung is None or trial.state.is_finished():
            self.paused.pop(number, None)
        else:
            self.paused[number] = rung
