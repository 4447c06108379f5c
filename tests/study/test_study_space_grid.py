"""A grid: every combination once, in one order, whatever interrupts it."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.study.space import SearchSpace, grid, load_space

LR, BATCH, QUERIES = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
POINTS, DECAY = "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "SOLVER.WEIGHT_DECAY"
CLASS, MASK = "MODEL.MASK_FORMER.CLASS_WEIGHT", "MODEL.MASK_FORMER.MASK_WEIGHT"
BATCHES = {"type": "categorical", "choices": [8, 4]}


def points_of(lines: dict[str, Any]) -> list[dict[str, Any]]:
    return grid(SearchSpace.from_dict(lines, source="s"))


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ({"type": "loguniform", "low": 1e-6, "high": 1e-4, "points": 3}, [1e-6, 1e-5, 1e-4]),
        ({"type": "uniform", "low": 0.0, "high": 0.3, "points": 4}, [0.0, 0.1, 0.2, 0.3]),
        ({"type": "int", "low": 20, "high": 50, "step": 10}, [20, 30, 40, 50]),
        ({"type": "int", "low": 1, "high": 100, "log": True, "points": 3}, [1, 10, 100]),
        ({"type": "int", "low": 1, "high": 3, "log": True, "points": 9}, [1, 2, 3]),
        (BATCHES, [8, 4]),
    ],
)
def test_the_values_of_a_range(line: dict[str, Any], values: list[Any]) -> None:
    points = points_of({LR: line})
    assert points == [{LR: value} for value in values]
    assert [type(point[LR]) for point in points] == [type(value) for value in values]


def test_the_last_key_changes_fastest() -> None:
    points = points_of({BATCH: BATCHES, QUERIES: {"type": "int", "low": 20, "high": 21}})
    assert [(point[BATCH], point[QUERIES]) for point in points] == [(8, 20), (8, 21), (4, 20), (4, 21)]


def test_a_conditional_key_is_combined_only_where_it_is_searched() -> None:
    points = points_of(
        {
            QUERIES: {"type": "int", "low": 20, "high": 22, "when": {BATCH: 4}},
            BATCH: BATCHES,
            "SOLVER.AMP.ENABLED": {"type": "categorical", "choices": [True, False]},
        }
    )
    assert len(points) == 2 + 3 * 2
    assert all((QUERIES in point) == (point[BATCH] == 4) for point in points)
    assert len({str(point) for point in points}) == len(points)


def test_the_same_balance_of_shares_is_tried_once() -> None:
    share = {"type": "share", "low": 1.0, "high": 4.0, "points": 3}
    balances = [point[CLASS] / point[MASK] for point in points_of({CLASS: share, MASK: share})]
    assert sorted(balances) == [0.25, 0.5, 1.0, 2.0, 4.0]


def test_a_range_without_points_is_named() -> None:
    lines = {
        LR: {"type": "loguniform", "low": 1e-6, "high": 1e-4},
        POINTS: {"type": "int", "low": 1, "high": 9, "log": True},
        DECAY: {"type": "uniform", "low": 0.0, "high": 0.1, "points": 2},
    }
    with pytest.raises(SearchSpaceError) as caught:
        points_of(lines)
    first, *named = str(caught.value).splitlines()
    assert first == "2 problems:"
    assert [line.split(": ")[1] for line in named] == [LR, POINTS]
    assert named[0].endswith("add how many it takes, such as points: 5")


def test_a_grid_without_end_is_refused() -> None:
    whole = {"type": "int", "low": 1, "high": 1000}
    with pytest.raises(SearchSpaceError, match=f"^s: a grid of more than 10000 points \\({QUERIES} 1000 x {POINTS}"):
        points_of({QUERIES: whole, POINTS: whole})


def test_the_packaged_ablation_has_the_configurations_own_point() -> None:
    space = load_space("ablation", Config())
    assert space.own_values(Config()) in grid(space)
