"""The points that are known to be good, which are tried before a sampler chooses.

What an earlier study knows: its best points are tried first in a new one, the others teach its sampler.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from os import PathLike
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import StudyError, TrainingError
from raytune_m2f.study.directory import Point, StudyDirectory, StudyPlan
from raytune_m2f.study.record.record import Record
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace

# Mask2Former's own loss weights (Cheng et al., 2022, section 4.1): the classification 2, the mask and the dice loss 5.
PUBLISHED = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
}


def known_good_points(plan: StudyPlan) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The points to try first, by their origin, and what the user should know of those that are left out."""
    own = plan.space.own_values(plan.config)
    published = _published(plan, own)
    candidates = {"config": own}
    if published != own:
        candidates["published"] = published
    points: dict[str, dict[str, Any]] = {}
    notes = []
    for origin, values in candidates.items():
        if outside := plan.space.contains(values):
            stated = _stated({key: values[key] for key in outside})
            notes.append(f"the {origin} values are not tried first, as the search space excludes {stated}")
        else:
            points[origin] = values
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


def _stated(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


log = logging.getLogger(__name__)

BEST_FIRST = 3


def knowledge_of(
    directory: str | PathLike[str], space: SearchSpace, settings: StudySettings
) -> tuple[list[Point], list[FrozenTrial]]:
    """The best points of an earlier study within a new search space, and its other trials as the sampler takes them.

    A key that the earlier study did not search has the value of its configuration; what counts are the values that were
    trained, not the weights that were drawn for shares. Metrics and constraints are
    computed anew from each trial's best report, so the new study may maximise something else.

    Raises:
        StudyError: there is no such study, or none of its trials fits the new space and metrics.
    """
    study = StudyDirectory.at(directory)
    study.require()
    record = Record(study, StudyPlan.load(study.plan_file, only_shown=True), writable=False)
    known = []
    ended = record.trials(TrialState.COMPLETE, TrialState.PRUNED)
    for trial in ended:
        values = _values(record, trial, space)
        scores = _scores(trial, settings)
        if scores is not None and not space.contains(values):
            known.append((scores, values, trial))
    if not known:
        raise StudyError(
            f"--from {study}: none of its trials has a report with {', '.join(settings.metrics)} and values "
            "within the search space"
        )
    if len(known) < len(ended):
        log.info("--from %s: %d of %d trials fit the search space and metrics", study, len(known), len(ended))
    known.sort(key=lambda found: (not _is_feasible(found[2], settings), -found[0][0], found[2].number))
    points = [("earlier", values) for _, values, _ in known[:BEST_FIRST]]
    return points, [_as_prior(*found, space, settings, study.root.name) for found in known[BEST_FIRST:]]


def _values(record: Record, trial: FrozenTrial, space: SearchSpace) -> dict[str, Any]:
    """The point at which the new space trains what the trial trained; of shares the same balance."""
    trained = record.values(trial)
    values = {key: trained[key] if key in trained else record.plan.config.value(key) for key in space.distributions}
    return space.weights(space.active(values))


def _scores(trial: FrozenTrial, settings: StudySettings) -> Sequence[float] | None:
    if "best" not in trial.user_attrs:
        return None
    try:
        _violations(trial, settings)
        return [objective.value(trial.user_attrs["best"]) for objective in settings.objectives]
    except TrainingError:
        return None


def _violations(trial: FrozenTrial, settings: StudySettings) -> dict[str, float]:
    return {bound.text: bound.violation(trial.user_attrs["best"]) for bound in settings.bounds}


def _is_feasible(trial: FrozenTrial, settings: StudySettings) -> bool:
    return all(violation <= 0 for violation in _violations(trial, settings).values())


def _as_prior(
    scores: Sequence[float],
    values: dict[str, Any],
    trial: FrozenTrial,
    space: SearchSpace,
    settings: StudySettings,
    name: str,
) -> FrozenTrial:
    stopped = trial.state == TrialState.PRUNED and len(scores) == 1
    return optuna.trial.create_trial(
        state=TrialState.PRUNED if stopped else TrialState.COMPLETE,
        values=list(scores),
        params=values,
        distributions={key: space.distributions[key] for key in values},
        # of a stopped trial TPE asks how far it came, and its value there
        intermediate_values={trial.last_step: scores[0]} if stopped and trial.last_step else None,
        constraints=_violations(trial, settings),
        user_attrs={"prior": f"trial {trial.number} of {name}"},
    )
