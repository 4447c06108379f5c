"""What the search makes of the curves of an earlier study, right or wrong ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.choose import choose
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.search.model import CurveModel
from raytune_m2f.study.space import SearchSpace

LR, DECAY = "SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY"
SPACE = SearchSpace.from_dict(
    {LR: {"type": "loguniform", "low": 1e-5, "high": 1e-1}, DECAY: {"type": "uniform", "low": 0.0, "high": 0.2}}
)
AXES = Axes.of(SPACE, {LR: 1e-4, DECAY: 0.1})
WHOLE = 80
RATES = (1e-4, 4e-3, 2e-2, 4e-4, 2e-5)
"""The configuration's, and one of each quarter; the other key stays where it is."""


def curve(rate: float, decay: float, end: float, task: str = "") -> Curve:
    return Curve({LR: rate, DECAY: decay}, {step: end * step / WHOLE for step in (10, 40, WHOLE)}, task=task)


def near(rate: float, peak: float) -> float:
    return 50 * math.exp(-0.5 * math.log10(rate / peak) ** 2)


def earlier(score: Callable[[float, float], float]) -> list[Curve]:
    """Twelve trials over the whole space, of another study."""
    places = [(10 ** (-5 + 4 * (n + 0.5) / 12), 0.2 * ((5 * n) % 12) / 11) for n in range(12)]
    return [curve(rate, decay, score(rate, decay), task="/elsewhere/of another") for rate, decay in places]


OWN = [curve(rate, 0.1, near(rate, 2e-3)) for rate in RATES]


def test_what_was_not_tried_here_is_known_from_there() -> None:
    """The same rate is the best; there a decay of 0 had twice the score of 0.2."""
    there = earlier(lambda rate, decay: near(rate, 2e-3) * (1 - 2.5 * decay))
    points = [{LR: 2e-3, DECAY: 0.02}, {LR: 2e-3, DECAY: 0.18}]
    (low, high), _ = CurveModel.fit(AXES, [*there, *OWN], WHOLE).predict(points)
    alone, _ = CurveModel.fit(AXES, OWN, WHOLE).predict(points)
    assert low - high > 5 + abs(alone[0] - alone[1])


@pytest.mark.parametrize("seed", range(3))
def test_own_results_count_more_than_wrong_ones_of_elsewhere(seed: int) -> None:
    """There the best rate was 100 times smaller, and scores twice as high: after five own trials that is no advice."""
    there = earlier(lambda rate, _: 2 * near(rate, 2e-5))
    chosen = choose(AXES, [*there, *OWN], WHOLE, np.random.default_rng(seed))
    assert 4e-4 < chosen[LR] < 1e-2
