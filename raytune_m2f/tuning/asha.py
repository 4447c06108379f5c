"""Asynchronous successive halving, as a pure function of the record.

    r    grace: the iterations of the first rung
    eta  reduction factor: rung k lies at r * eta^k iterations, below the trial's last iteration

A trial that reaches a rung goes on if its best value up to there is among the best ceil(n / eta) of the n trials
that have reached that rung so far, itself included; ties go on. (Li et al., A System for Massively Parallel
Hyperparameter Tuning, 2020, section 3; in its stopping form, as no trial is ever paused.)

Optuna's SuccessiveHalvingPruner and Ray's ASHAScheduler keep the rungs' values as state of their own, which a kill
between a report and the decision leaves behind the record; here there is no such state to lose. The best value so
far is compared because that is what a trial is scored by.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

Curve = Mapping[int, float]  # iteration -> value


def default_grace(max_iter: int, eval_period: int) -> int:
    """A ninth of the training, rounded up to a whole number of evaluations."""
    period = eval_period if 0 < eval_period < max_iter else max_iter
    return period * max(1, math.ceil(max_iter / 9 / period))


def rungs(grace: int, factor: int, max_iter: int) -> Iterator[int]:
    """The iterations of the rungs; the end of a training is none of them."""
    rung = grace
    while rung < max_iter:
        yield rung
        rung *= factor


def value_at(curve: Curve, rung: int) -> float | None:
    """Best value up to the first report at or after the rung; None if the rung is not reached."""
    reached = [step for step in curve if step >= rung]
    if not reached:
        return None
    first = min(reached)
    return max(value for step, value in curve.items() if step <= first)


def stopped_at(curve: Curve, others: Iterable[Curve], *, grace: int, factor: int, max_iter: int) -> int | None:
    """The rung at which a trial has to stop after its latest report, or None if it goes on.

    Args:
        curve: the trial's reports so far; the latest one is judged, if it is the first at or after a rung.
        others: the reports of all other trials that ever reported, whatever became of them.
        max_iter: iterations of a whole trial; at the last one nobody is stopped.
    """
    steps = sorted(curve)
    if not steps or steps[-1] >= max_iter:
        return None
    previous = steps[-2] if len(steps) > 1 else 0
    curves = list(others)
    for rung in rungs(grace, factor, max_iter):
        if previous < rung <= steps[-1] and not _goes_on(curve, curves, rung, factor):
            return rung
    return None


def _goes_on(curve: Curve, others: list[Curve], rung: int, factor: int) -> bool:
    own = value_at(curve, rung)
    assert own is not None
    better = total = 0
    for other in others:
        value = value_at(other, rung)
        if value is not None:
            total += 1
            better += value > own
    return better < math.ceil((total + 1) / factor)
