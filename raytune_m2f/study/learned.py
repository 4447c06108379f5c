"""What a study has learned, from its record; and whether further trials are worth it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from raytune_m2f.study.record import Record
from raytune_m2f.study.record.gains import GainChecks
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.record.rungs import default_grace, rung_iterations
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.curves import Curve, curves_of
from raytune_m2f.study.search.insight import Insight, expected_gain, learn, most_telling, own_curves

if TYPE_CHECKING:
    from raytune_m2f.study.search.model import CurveModel


def insight_of(record: Record) -> Insight:
    """What the trials so far say of the keys, of the rungs and of further trials; takes a second or two."""
    plan, method = record.plan, record.plan.settings.early_stopping.method
    score, curves, axes = plan.settings.metrics[0], curves_of(record.trials()), _axes(record)
    if method == "pbt":
        trials = len(own_curves(curves))
        return Insight(score, trials, missing="with pbt a trial goes on from another's checkpoint with other values")
    return learn(
        axes,
        curves,
        partial(_fit, record, axes),
        record.index.max_iter,
        score=score,
        rungs=record.index.rungs.iterations or _usual_rungs(record),
        method=method,
        trained=partial(plan.space.resolve, config=plan.config),
    )


def becomes_flat(record: Record) -> bool:
    """Whether no further trial is worth it (`--stop-when-flat`); what was found is in the record before it is acted on.

    Asked each time before a new trial starts: the answer depends on the record alone.
    """
    plan = record.plan
    begun = [trial for trial in record.trials() if is_here(trial) and trial.state != TrialState.FAIL]
    ended = len(begun) - len(record.unfinished())
    checks = GainChecks.begun(record.study, plan, ended)
    if checks.is_due(ended):
        curves, axes = curves_of(record.trials()), _axes(record)
        model = _fit(record, axes, most_telling(curves))
        checks = checks.plus(ended, expected_gain(axes, own_curves(curves), model, record.index.max_iter))
    checks.note(record.study)
    return checks.flat is not None


def _axes(record: Record) -> Axes:
    space = record.plan.space
    return Axes.of(space, space.own_values(record.plan.config))


def _fit(record: Record, axes: Axes, curves: Sequence[Curve]) -> CurveModel:
    from raytune_m2f.study.search.model import CurveModel  # here, for scipy takes its time

    return CurveModel.fit(axes, curves, record.index.max_iter)


def _usual_rungs(record: Record) -> tuple[int, ...]:
    """Where trials of this length would be stopped, if they were."""
    max_iter, period = record.index.max_iter, record.plan.config.value("TEST.EVAL_PERIOD")
    return rung_iterations("asha", default_grace(max_iter, period), record.index.rungs.factor, max_iter)
