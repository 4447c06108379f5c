"""Early stopping: successive halving and population based training, as functions of the record.

    r    grace: the iterations of the first rung
    eta  reduction factor

asha       rung k lies at r * eta^k iterations, before the trials' last. A trial that reaches a rung goes on if its best
           value up to there is among the best ceil(n / eta) of the n trials that have reached that rung so far, itself
           included. (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, section 3, in its
           stopping form.)
promotion  the same rungs. A trial pauses at a rung unless it is among the best floor(n / eta) there, and goes on as
           soon as it is, because others have turned out worse (the paper's algorithm 2). At the end of the budget more
           of them go on; see `promotion.py`. With `auto` what trials promise is compared (`search/promise.py`).
pbt        rungs at r, 2 r, 3 r ... A trial among the worst floor(n / eta) of a rung ends, and one of the best
           floor(n / eta) is continued in its place with changed values. (Jaderberg et al., Population Based Training
           of Neural Networks, 2017, section 4.1: truncation selection.)

Ties go on. The best value up to a rung is compared, as that is what a trial is scored by; where the metric is flat it
is of what the search climbs, see `training/climb.py`. Optuna's SuccessiveHalvingPruner and Ray's schedulers keep the
rungs' values as state of their own, which a kill between a report and the decision leaves behind the record; here they
are an index of the record, built anew when it is opened.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


def default_grace(max_iter: int, eval_period: int, method: str = "asha") -> int:
    """A ninth of the training (pbt: a fifth), rounded up to a whole number of evaluations."""
    period = eval_period if 0 < eval_period < max_iter else max_iter
    return period * max(1, math.ceil(max_iter / (5 if method == "pbt" else 9) / period))


def rung_iterations(method: str, grace: int, factor: int, max_iter: int) -> tuple[int, ...]:
    """The iterations of the rungs; the end of a training is none of them."""
    if method == "none":
        return ()
    if method == "pbt":
        return tuple(range(grace, max_iter, grace))
    found, rung = [], grace
    while rung < max_iter:
        found.append(rung)
        rung *= factor
    return tuple(found)


@dataclass
class Rungs:
    """The best value of each trial at each rung that it has reached.

    Attributes:
        iterations: of the rungs, in increasing order.
        factor: eta.
    """

    iterations: tuple[int, ...]
    factor: int
    _values: dict[int, dict[int, float]] = field(default_factory=dict)  # rung -> trial -> value
    _curves: dict[int, tuple[int, float, tuple[int, ...]]] = field(default_factory=dict)

    def note(self, trial: int, step: int, value: float, *, start: int = 0) -> None:
        """Take a report; reports of a trial come in the order of their iterations, and known ones change nothing.

        Args:
            start: the iteration at which the trial took over another's checkpoint; what comes before is the other's.
        """
        last, best, _ = self._curves.get(trial, (start, -math.inf, ()))
        if step <= last:
            return
        best = max(best, value)
        reached = tuple(rung for rung in self.iterations if last < rung <= step)
        for rung in reached:
            self._values.setdefault(rung, {})[trial] = best
        self._curves[trial] = step, best, reached

    def by(self, merits: Mapping[int, float]) -> Rungs:
        """The same rungs, at each of which trials are compared by their merits; those without one come last."""
        values = {rung: {trial: merits.get(trial, -math.inf) for trial in here} for rung, here in self._values.items()}
        return Rungs(self.iterations, self.factor, values, self._curves)

    def reached(self, trial: int) -> tuple[int, ...]:
        """The rungs that the trial's latest report was the first to reach; two where it came late."""
        return self._curves[trial][2] if trial in self._curves else ()

    def value(self, trial: int, rung: int) -> float:
        """The best value of a trial up to a rung that it has reached."""
        return self._values[rung][trial]

    def at(self, rung: int) -> Collection[int]:
        """The trials that have reached a rung."""
        return self._values.get(rung, {}).keys()

    def count(self, rung: int, *, rounded_up: bool) -> int:
        """How many trials n / eta are at a rung."""
        return self._count(len(self.at(rung)), rounded_up)

    def among_best(self, trial: int, rung: int, *, rounded_up: bool) -> bool:
        """Whether the trial is among the best n / eta at a rung."""
        return self._values[rung][trial] >= self.bar(rung, rounded_up=rounded_up)

    def bar(self, rung: int, *, rounded_up: bool) -> float:
        """The value of the last of the best n / eta at a rung."""
        values = sorted(self._values[rung].values(), reverse=True)
        count = self._count(len(values), rounded_up)
        return values[count - 1] if count else math.inf

    def _count(self, trials: int, rounded_up: bool) -> int:
        return math.ceil(trials / self.factor) if rounded_up else trials // self.factor

    def among_worst(self, trial: int, rung: int) -> bool:
        """Whether the trial is among the worst floor(n / eta) at a rung."""
        values = self._values[rung]
        not_better = sum(value <= values[trial] for value in values.values())
        return not_better <= len(values) // self.factor

    def best(self, rung: int, *, rounded_up: bool = False) -> list[int]:
        """The best n / eta trials at a rung, best first."""
        values = self._values.get(rung, {})
        ranked = sorted(values, key=lambda trial: (-values[trial], trial))
        return ranked[: self._count(len(values), rounded_up)]

    def to_promote(self, paused: Mapping[int, int], *, rounded_up: bool) -> int | None:
        """The paused trial that goes on next, if any: the highest rung first, then the best value.

        Args:
            paused: trial -> the rung at which it waits.
        """
        bars = {rung: self.bar(rung, rounded_up=rounded_up) for rung in set(paused.values())}
        ready = [
            (rung, value, -trial)
            for trial, rung in paused.items()
            if (value := self._values[rung][trial]) >= bars[rung]
        ]
        return -max(ready)[2] if ready else None


def judge(method: str, rungs: Rungs, trial: int, *, passed: int) -> int | None:
    """The rung at which `asha` or `pbt` ends a trial after its latest report; None if it goes on.

    A trial whose report came late is judged at every rung that it has reached.

    Args:
        passed: the highest rung at which it was let through before.
    """
    reached = [rung for rung in rungs.reached(trial) if rung > passed]
    if method == "pbt":
        return next((rung for rung in reached if rungs.among_worst(trial, rung)), None)
    return next((rung for rung in reached if not rungs.among_best(trial, rung, rounded_up=True)), None)
