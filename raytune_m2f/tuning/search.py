"""How the next point is chosen: Optuna's sampler, and the points that are known to be good."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
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


def make_sampler(seed: int, started: int, planned: int | None) -> optuna.samplers.BaseSampler:
    """The sampler of one suggestion.

    It is made anew for each: what it suggests then depends on the seed, on how many trials were started before, and
    on the record, and not on how often the driver was restarted (one seed for a driver's life would suggest the
    first points a second time after a restart).

    Args:
        planned: trials of the whole study if they are known; a small study explores at random for a shorter time.
    """
    startup = 10 if planned is None else min(10, max(3, planned // 3))
    stream = int(np.random.SeedSequence([seed, started]).generate_state(1)[0])
    with warnings.catch_warnings():
        # Both options are the default of Optuna 5 and called experimental before.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(
            seed=stream,
            n_startup_trials=startup,
            multivariate=True,
            constant_liar=True,  # trials that run at the same time keep away from each other
        )


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
