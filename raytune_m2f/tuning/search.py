"""The points that are known to be good, which are tried before a sampler chooses."""

from __future__ import annotations

import math
from typing import Any

from raytune_m2f.tuning.study import StudyPlan

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
    shares = [key for key in weights if plan.space.entries[key].share]
    if shares:
        scale = sum(own[key] for key in shares) / sum(weights[key] for key in shares)
        weights |= {key: weights[key] * scale for key in shares}
    same = {key: own[key] for key in shares if math.isclose(weights[key], own[key])}  # but for rounding
    return {**own, **weights, **same}


def _stated(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
