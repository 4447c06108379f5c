"""What is suggested: a value for each key, and first the points that are known to be good."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytune_m2f.tuning.study import StudyPlan

# Mask2Former's own loss weights (Cheng et al., 2022, section 4.1): the classification 2, the mask and the dice loss 5.
PUBLISHED = {
    "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
    "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
    "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
}


def suggest(trial: optuna.trial.Trial, distributions: dict[str, BaseDistribution]) -> dict[str, Any]:
    """A value for each key; a value that the trial already has is kept, so that a half-asked trial can be completed."""
    return {name: _suggest_one(trial, name, space) for name, space in distributions.items()}


def _suggest_one(trial: optuna.trial.Trial, name: str, space: BaseDistribution) -> Any:
    if isinstance(space, FloatDistribution):
        return trial.suggest_float(name, space.low, space.high, step=space.step, log=space.log)
    if isinstance(space, IntDistribution):
        return trial.suggest_int(name, space.low, space.high, step=space.step, log=space.log)
    if isinstance(space, CategoricalDistribution):
        return trial.suggest_categorical(name, space.choices)
    raise TypeError(f"{name} has an unknown distribution {space!r}")


def known_good_points(plan: StudyPlan) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The points to try first, by their origin, and what the user should know of those that are left out."""
    own = plan.space.own_values(plan.config)
    published = {**own, **{key: value for key, value in PUBLISHED.items() if key in own}}
    candidates = {"config": own}
    if published != own:
        candidates["published"] = published
    points: dict[str, dict[str, Any]] = {}
    notes = []
    for origin, values in candidates.items():
        if outside := plan.space.contains(values):
            stated = ", ".join(f"{key}={values[key]}" for key in outside)
            notes.append(f"the {origin} values are not tried first, as the search space excludes {stated}")
        else:
            points[origin] = values
    return points, notes
