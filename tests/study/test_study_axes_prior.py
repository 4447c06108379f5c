"""What a search believes of a space before its first trial, and choices that have an order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raytune_m2f.study.search.axes import CONFIDENCE, Axes
from raytune_m2f.study.space import SearchSpace

LR, BATCH, DECAY = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "SOLVER.WEIGHT_DECAY"
SCHEDULE, FACTOR = "SOLVER.LR_SCHEDULER_NAME", "SOLVER.BACKBONE_MULTIPLIER"
LINES: dict[str, dict[str, Any]] = {
    LR: {"type": "loguniform", "low": 1e-5, "high": 1e-1},
    BATCH: {"type": "categorical", "choices": [4, 8, 16]},
    SCHEDULE: {"type": "categorical", "choices": ["WarmupCosineLR", "WarmupPolyLR"]},
    DECAY: {"type": "uniform", "low": 0.0, "high": 0.2},
}
OWN = {LR: 1e-4, BATCH: 16, SCHEDULE: "WarmupPolyLR", DECAY: 0.05}


def axes(**priors: dict[str, Any]) -> Axes:
    """The axes of LINES, with priors by the last part of a key."""
    lines = {key: {**line, **_of(key, priors)} for key, line in LINES.items()}
    return Axes.of(SearchSpace.from_dict(lines), OWN)


def _of(key: str, priors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    last = key.rpartition(".")[2]
    return {"prior": priors[last]} if last in priors else {}


def test_without_a_prior_the_configuration_is_believed_in() -> None:
    found = axes()
    assert found.center == pytest.approx([0.25, 5 / 6, 0.75, 0.25])
    low, medium = CONFIDENCE["low"], CONFIDENCE["medium"]
    assert found.spread == pytest.approx([low, low, medium, medium]), "little of learning rate and batch"


def test_a_prior_moves_the_center_or_says_how_sure_it_is_or_both() -> None:
    found = axes(
        BASE_LR={"center": 1e-2},
        IMS_PER_BATCH={"center": 4, "confidence": "high"},
        LR_SCHEDULER_NAME={"center": "WarmupCosineLR"},
        WEIGHT_DECAY={"confidence": "low"},
    )
    assert found.center == pytest.approx([0.75, 1 / 6, 0.25, 0.25])
    assert found.spread == pytest.approx([CONFIDENCE[word] for word in ("low", "high", "medium", "low")])


def test_what_is_believed_is_more_likely() -> None:
    sure, open_ = axes(WEIGHT_DECAY={"confidence": "high"}), axes(WEIGHT_DECAY={"confidence": "low"})
    far = np.array([sure.center, [*sure.center[:3], 1.0]])
    assert np.diff(sure.log_prior(far))[0] < np.diff(open_.log_prior(far))[0] < 0


def test_ordered_choices_share_a_column_and_others_have_one_each() -> None:
    found = axes()
    assert found.groups == {LR: [0], BATCH: [1], SCHEDULE: [2, 3], DECAY: [4]}
    few, some, many = found.features([{**OWN, BATCH: batch} for batch in (4, 8, 16)])
    assert np.linalg.norm(few - many) == pytest.approx(2 * np.linalg.norm(few - some))
    assert np.linalg.norm(some - many) == pytest.approx(np.linalg.norm(few - some)), "evenly spaced"
    one, other = found.features([{**OWN, SCHEDULE: choice} for choice in LINES[SCHEDULE]["choices"]])
    assert np.flatnonzero(one - other).tolist() == [2, 3]


def test_a_place_and_its_values_belong_together() -> None:
    found = axes()
    for batch in (4, 8, 16):
        values = {**OWN, BATCH: batch}
        assert found.values(found.place(values)) == pytest.approx(values)
