"""The points that a study tries before its sampler chooses: those known to be good, and the best of an earlier study.

What else is known from earlier studies, the curves of all their trials, is told to the new study's sampler.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from contextlib import suppress
from os import PathLike
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.config import Config
from raytune_m2f.errors import StudyError, TrainingError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import Point, StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.search.curves import curves_of
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import METRICS, Report, read_reports

log = logging.getLogger(__name__)

# Mask2Former's own loss weights (Cheng et al., 2022, section 4.1): the classification 2, the mask and the dice loss 5.
PUBLISHED = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
}
NOT_TAUGHT = ("random", "cmaes")
"""Samplers that learn from no trial that they have not suggested."""


def known_good_points(plan: StudyPlan) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The points to try first, by their origin, and what the user should know of those that are left out."""
    own = plan.space.own_values(plan.config)
    published = _published(plan, own)
    points = {"config": own} | ({"published": published} if published != own else {})
    notes = []
    for origin, values in list(points.items()):
        if outside := plan.space.contains(values):
            excluded = ", ".join(f"{key}={values[key]}" for key in outside)
            notes.append(f"the {origin} values are not tried first, as the search space excludes {excluded}")
            del points[origin]
    return points, notes


def _published(plan: StudyPlan, own: dict[str, Any]) -> dict[str, Any]:
    """The configuration's own values with the published weights; shares among them keep the sum that they have.

    Only their balance is published then: the same balance at another scale would be the same training again.
    """
    weights = {key: value for key, value in PUBLISHED.items() if key in own}
    shares = [key for key in weights if key in plan.space.shares]
    if shares:
        scale = sum(own[key] for key in shares) / sum(weights[key] for key in shares)
        weights |= {key: weights[key] * scale for key in shares}
    same = {key: own[key] for key in shares if math.isclose(weights[key], own[key])}  # but for rounding
    return {**own, **weights, **same}


class _Known(NamedTuple):
    """A trial of an earlier study, as a new study with other metrics, another space and another length sees it.

    `curve` has a score for each report, at the iteration of the new study that is the same share of a training.
    """

    trial: FrozenTrial
    values: dict[str, Any]
    scores: list[float]
    violations: dict[str, float]
    curve: dict[int, float]

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Sorts the best first: within the constraints, then by the first metric."""
        return not all(found <= 0 for found in self.violations.values()), -self.scores[0], self.trial.number


def knowledge_of(
    directories: Iterable[str | PathLike[str]], config: Config, space: SearchSpace, settings: StudySettings
) -> tuple[list[Point], list[FrozenTrial]]:
    """What earlier studies know: a point to try first, and all their trials with their curves, for the sampler.

    The point is the best of the study that is named first. There is one, for whatever the earlier studies suggest may
    be wrong here, and one training is enough to see it; the rest is learned from the curves. It is not the best of all
    the studies, for scores on other data cannot be compared.

    A key that an earlier study did not search has the value of its configuration; of shares count the trained values.
    Metrics and constraints are computed anew, for the new study may maximise something else: from all reports of a
    trial, or where its directory is gone from the two that the record holds.

    Args:
        directories: of the studies; one that is named twice counts once.
        config, space, settings: of the new study.

    Raises:
        StudyError: there is no such study, none of its trials fits the new space and metrics, or the new study tries
            all points of a grid.
    """
    studies = {str(study): study for study in map(StudyDirectory.at, directories)}
    if studies and settings.sampler == "grid":
        raise StudyError(
            "--from with --sampler grid: a grid tries all of its points, whatever is known of them. Leave --from out, "
            "or take another sampler."
        )
    if studies and settings.sampler in NOT_TAUGHT:
        log.warning("--from: the best point is tried, but --sampler %s learns from no other study", settings.sampler)
    known = [_known_of(study, config, space, settings) for study in studies.values()]
    points = [("earlier", min(found, key=lambda one: one.rank).values) for found in known[:1]]
    return points, [_as_prior(one, space, name) for name, found in zip(studies, known, strict=True) for one in found]


def _known_of(study: StudyDirectory, config: Config, space: SearchSpace, settings: StudySettings) -> list[_Known]:
    """The trials of a study that fit, in their order; raises StudyError if none does."""
    study.require()
    record = Record(study, StudyPlan.load(study.plan_file, only_shown=True), writable=False)
    # those that run, or wait at a rung for good, have shown something too
    begun = [trial for trial in record.trials() if is_here(trial) and trial.state != TrialState.FAIL]
    known = [found for trial in begun if (found := _known(record, trial, config, space, settings)) is not None]
    if not known:
        raise StudyError(
            f"--from {study}: none of its trials has a report with {', '.join(settings.metrics)} and values "
            "within the search space"
        )
    if len(known) < len(begun):
        log.info("--from %s: %d of %d trials fit the search space and metrics", study, len(known), len(begun))
    return known


def _known(
    record: Record, trial: FrozenTrial, config: Config, space: SearchSpace, settings: StudySettings
) -> _Known | None:
    """The point at which the space trains what the trial trained; None outside the space, or without the metrics."""
    trained = record.values(trial)
    values = {key: trained[key] if key in trained else record.plan.config.value(key) for key in space.entries}
    values = space.weights(space.active(values))  # of shares the same balance
    if "best" not in trial.user_attrs or space.contains(values):
        return None
    longer = config.value("SOLVER.MAX_ITER") / record.index.max_iter
    try:
        best, scores = _scores(record, trial, settings.objectives[0])
        return _Known(
            trial,
            values,
            scores=[objective.value(best) for objective in settings.objectives],
            violations={bound.text: bound.violation(best) for bound in settings.bounds},
            curve={max(1, round(iteration * longer)): score for iteration, score in scores.items()},
        )
    except TrainingError:
        return None


def _scores(record: Record, trial: FrozenTrial, metric: Objective) -> tuple[Report, dict[int, float]]:
    """A trial's best report by a metric, and the scores of all of its own, by iteration.

    Raises:
        TrainingError: no report has the metric.
    """
    attributes = trial.user_attrs
    if metric.terms == record.plan.settings.objectives[0].terms:
        best, (curve,) = attributes["best"], curves_of([trial])
        scores = dict(curve.scores)
    else:
        folder = record.directory.trial(trial.number)
        record.directory.fetch(folder / METRICS)
        reports = {int(report["iteration"]): report for report in read_reports(folder) or _in_record(trial)}
        scores = {}
        for iteration, report in reports.items():
            with suppress(TrainingError):
                scores[iteration] = metric.value(report)
        if not scores:
            raise TrainingError(f"no report has {metric.text}")
        best = max(
            (reports[iteration] for iteration in scores), key=lambda one: (one.get("images", 0), metric.value(one))
        )
    start = attributes.get("start", 0)  # up to there the reports are the parent's
    return best, {iteration: score for iteration, score in sorted(scores.items()) if iteration > start}


def _in_record(trial: FrozenTrial) -> list[Report]:
    """The reports of which the record holds all metrics."""
    return [trial.user_attrs[name] for name in ("best", "last") if name in trial.user_attrs]


def _as_prior(known: _Known, space: SearchSpace, study: str) -> FrozenTrial:
    trial, distributions = known.trial, space.distributions
    ended = trial.state == TrialState.COMPLETE or len(known.scores) > 1
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if ended else TrialState.PRUNED,
        values=known.scores,
        params=known.values,
        distributions={key: distributions[key] for key in known.values},
        intermediate_values=known.curve,
        constraints=known.violations,
        user_attrs={"prior": f"trial {trial.number} of {study}"},
    )
