from __future__ import annotations

from typing import Any

import pytest
from fake_study import LR, config, settings

from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.points import PUBLISHED, known_good_points
from raytune_m2f.study.space import SearchSpace

CLASS, MASK, DICE = PUBLISHED


def plan(entries: dict[str, Any], values: dict[str, Any]) -> StudyPlan:
    return StudyPlan(config().with_values(values), SearchSpace.from_dict(entries), settings())


def uniform(low: float, high: float) -> dict[str, Any]:
    return {"type": "uniform", "low": low, "high": high}


WEIGHTS = {CLASS: uniform(0.5, 10), MASK: uniform(0.5, 10), DICE: uniform(0.5, 10)}


def test_the_configurations_own_values_go_first() -> None:
    points, notes = known_good_points(plan({LR: uniform(1e-5, 1e-2)}, {LR: 3e-4}))
    assert points == {"config": {LR: 3e-4}}
    assert notes == []


def test_the_published_weights_go_second_where_they_differ() -> None:
    own = {CLASS: 1.0, MASK: 1.0, DICE: 1.0}
    points, _ = known_good_points(plan(WEIGHTS, own))
    assert points == {"config": own, "published": {CLASS: 2.0, MASK: 5.0, DICE: 5.0}}
    assert list(points) == ["config", "published"]
    same, _ = known_good_points(plan(WEIGHTS, {}))
    assert list(same) == ["config"]


@pytest.mark.parametrize("low", [3.0, 6.0])
def test_a_point_outside_the_space_is_named(low: float) -> None:
    points, notes = known_good_points(plan({**WEIGHTS, MASK: uniform(low, 10)}, {MASK: 1.0}))
    assert notes[0] == f"the config values are not tried first, as the search space excludes {MASK}=1.0"
    assert list(points) == (["published"] if low == 3.0 else [])


def test_a_conditional_key_is_left_out_where_it_is_not_searched() -> None:
    schedule, power = "SOLVER.LR_SCHEDULER_NAME", "SOLVER.POLY_LR_POWER"
    lines = {
        power: {**uniform(0.5, 2.0), "when": {schedule: "WarmupPolyLR"}},
        schedule: {"type": "categorical", "choices": ["WarmupMultiStepLR", "WarmupPolyLR"]},
    }
    assert known_good_points(plan(lines, {}))[0] == {"config": {schedule: "WarmupMultiStepLR"}}


def test_the_published_balance_has_the_sum_of_the_shares() -> None:
    shares = {key: {"type": "share", "low": 0.1, "high": 20.0} for key in WEIGHTS}
    points, _ = known_good_points(plan(shares, {CLASS: 2.0, MASK: 2.0, DICE: 2.0}))
    assert points["published"] == {CLASS: 1.0, MASK: 2.5, DICE: 2.5}
    same, _ = known_good_points(plan(shares, {CLASS: 0.6, MASK: 1.5, DICE: 1.5}))
    assert list(same) == ["config"]
