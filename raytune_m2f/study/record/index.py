"""Totals over the trials that the driver needs at every event, kept up to date so that no event reads all trials.

It holds nothing that the record does not: it is built anew whenever the record is opened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record.promotion import Way
from raytune_m2f.study.record.rungs import Rungs, default_grace, rung_iterations
from raytune_m2f.study.search.curves import scores_of
from raytune_m2f.study.settings import Budget, Usage

STEADY = 0.9
"""How much of a rate so far is counted on."""


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
        under_way: the trials that have begun, have not ended and do not wait: their iterations.
        owed: the trials that are brought to their end in any case: the configuration's own values.
        rungs: best values at the rungs, of what is climbed.
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
    under_way: dict[int, int] = field(default_factory=dict)
    owed: set[int] = field(default_factory=set)
    vacant: dict[int, int] = field(default_factory=dict)
    heirs: dict[int, tuple[int, int]] = field(default_factory=dict)
    rungs: Rungs = field(init=False)
    max_iter: int = field(init=False)
    grace: int = field(init=False)
    _used: dict[int, tuple[int, float, float]] = field(default_factory=dict)
    _iterations: int = 0
    _gpu_seconds: float = 0.0
    _seconds: float = 0.0

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
            for step, value in scores_of(trial).items():
                self.rungs.note(trial.number, step, value, start=trial.user_attrs.get("start", 0))
            self._count(trial)

    def update(self, trial: FrozenTrial) -> None:
        """Take the latest report and the state of a trial."""
        last = trial.last_step
        if last is not None:
            value = scores_of(trial)[last]
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

    def ways(self, *, without: int | None = None) -> list[Way]:
        """What the trials that are under way still have to train: to their next rungs, and to their ends."""
        found = []
        for number, done in self.under_way.items():
            rungs = [] if number in self.owed else [rung for rung in self.rungs.iterations if rung > done]
            if number != without:
                found.append((min([*rungs, self.max_iter]) - done, self.max_iter - done))
        return found

    def limits(self, budget: Budget, usage: Usage) -> tuple[float, float]:
        """How many iterations the budget still allows all trials together, and how many each of them.

        Seconds and GPU-hours are so by the rate so far, of which a tenth is kept back, as no rate is steady. Trials
        that run at once share the iterations and the GPU-hours, but not the time.
        """
        left = [math.inf if budget.iterations is None else budget.iterations - usage.iterations]
        if budget.gpu_hours is not None and usage.gpu_hours and usage.iterations:
            hours = usage.gpu_hours / usage.iterations
            left.append(STEADY * (budget.gpu_hours - usage.gpu_hours) / hours)
        if budget.seconds is None or not usage.iterations:
            return min(left), math.inf
        # one at a time: what a trial takes to start counts; several at once: each has its own time
        seconds = max(usage.seconds, self._seconds) / usage.iterations
        return min(left), STEADY * (budget.seconds - usage.seconds) / seconds if seconds else math.inf

    def _note_heir(self, trial: FrozenTrial) -> None:
        attributes = trial.user_attrs
        if "parent" in attributes and trial.last_step is None and not trial.state.is_finished():
            self.heirs[trial.number] = attributes["parent"], attributes["start"]
        else:
            self.heirs.pop(trial.number, None)

    def _count(self, trial: FrozenTrial) -> None:
        number, attributes = trial.number, trial.user_attrs
        before = self._used.get(number, (0, 0.0, 0.0))
        iterations = max(0, (trial.last_step or 0) - attributes.get("start", 0))
        seconds = float(attributes.get("last", {}).get("seconds", 0.0)) - attributes.get("inherited", 0.0)
        self._used[number] = now = iterations, attributes.get("gpu_seconds", 0.0), seconds
        self._iterations += now[0] - before[0]
        self._gpu_seconds += now[1] - before[1]
        self._seconds += now[2] - before[2]
        if "replaced_at" in attributes and trial.state in (TrialState.PRUNED, TrialState.COMPLETE):
            self.vacant[number] = attributes["replaced_at"]
        rung, ended = attributes.get("paused"), trial.state.is_finished()
        self.paused.pop(number, None)
        self.under_way.pop(number, None)
        if not ended and rung is not None:
            self.paused[number] = rung
        elif not ended:
            self.under_way[number] = trial.last_step or 0
        if attributes.get("origin") == "config":
            self.owed.add(number)
