"""The points that a study tries before its sampler chooses: those known to be good, and the best of an earlier study.

The earlier study's other trials are told to the new study's sampler.
"""

from __future__ import annotations

import logging
import math
from os import PathLike
from typing import Any, NamedTuple

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import StudyError, TrainingError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import Point, StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace

log = logging.getLogger(__name__)

# Mask2Former's own loss weights (Cheng et al., 2022, section 4.1): the classification 2, the mask and the dice loss 5.
PUBLISHED = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
}
BEST_FIRST = 3
"""So many of an earlier study's trials are tried first; the others are told to the sampler."""


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
    """An ended trial of an earlier study, as a new study with other metrics and another space sees it."""

    trial: FrozenTrial
    values: dict[str, Any]
    scores: list[float]
    violations: dict[str, float]

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Sorts the best first: within the constraints, then by the first metric."""
        return not all(found <= 0 for found in self.violations.values()), -self.scores[0], self.trial.number


def knowledge_of(
    directory: str | PathLike[str], space: SearchSpace, settings: StudySettings
) -> tuple[list[Point], list[FrozenTrial]]:
    """The best points of an earlier study within a new search space, and its other trials as the sampler takes them.

    A key that the earlier study did not search has the value of its configuration; what counts are the values that were
    trained, not the weights that were drawn for shares. Metrics and constraints are computed anew from each trial's
    best report, so the new study may maximise something else.

    Raises:
        StudyError: there is no such study, or none of its trials fits the new space and metrics.
    """
    study = StudyDirectory.at(directory)
    study.require()
    record = Record(study, StudyPlan.load(study.plan_file, only_shown=True), writable=False)
    ended = record.trials(TrialState.COMPLETE, TrialState.PRUNED)
    known = sorted(filter(None, (_known(record, trial, space, settings) for trial in ended)), key=lambda one: one.rank)
    if not known:
        raise StudyError(
            f"--from {study}: none of its trials has a report with {', '.join(settings.metrics)} and values "
            "within the search space"
        )
    if len(known) < len(ended):
        log.info("--from %s: %d of %d trials fit the search space and metrics", study, len(known), len(ended))
    points = [("earlier", one.values) for one in known[:BEST_FIRST]]
    return points, [_as_prior(one, space, study.root.name) for one in known[BEST_FIRST:]]


def _known(record: Record, trial: FrozenTrial, space: SearchSpace, settings: StudySettings) -> _Known | None:
    """The point at which the space trains what the trial trained; None outside the space, or without the metrics."""
    trained, best = record.values(trial), trial.user_attrs.get("best")
    values = {key: trained[key] if key in trained else record.plan.config.value(key) for key in space.entries}
    values = space.weights(space.active(values))  # of shares the same balance
    if best is None or space.contains(values):
        return None
    try:
        violations = {bound.text: bound.violation(best) for bound in settings.bounds}
        return _Known(trial, values, [objective.value(best) for objective in settings.objectives], violations)
    except TrainingError:
        return None


def _as_prior(known: _Known, space: SearchSpace, study: str) -> FrozenTrial:
    trial, distributions = known.trial, space.distributions
    stopped = trial.state == TrialState.PRUNED and len(known.scores) == 1
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
        values=known.scores,
        params=known.values,
        distributions={key: distributions[key] for key in known.values},
        # of a stopped trial TPE asks how far it came, and its value there
        intermediate_values={trial.last_step: known.scores[0]} if stopped and trial.last_step else None,
        constraints=known.violations,
        user_attrs={"prior": f"trial {trial.number} of {study}"},
    )
