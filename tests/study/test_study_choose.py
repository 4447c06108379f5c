"""What `--sampler auto` tries next."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate, stats

from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.choose import _rate_to_test, choose, log_expected_improvement
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.space import SearchSpace

RATE, WEIGHT = "SOLVER.BASE_LR", "MODEL.MASK_FORMER.CLASS_WEIGHT"
LINES = {
    RATE: {"type": "loguniform", "low": 1e-5, "high": 1e-1},
    WEIGHT: {"type": "loguniform", "low": 0.5, "high": 8.0},
}
OWN = {RATE: 1e-4, WEIGHT: 2.0}
AXES = Axes.of(SearchSpace.from_dict(LINES), OWN)


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def scored(values: dict[str, float], **others: object) -> Curve:
    """A curve whose end is best at a learning rate of 1e-3, whatever the weight."""
    top = 40 - 10 * abs(np.log10(values[RATE]) + 3)
    return Curve(values, {10: top / 2, 80: top}, **others)  # type: ignore[arg-type]


def test_learning_rates_come_first_over_the_whole_range() -> None:
    curves = [Curve(OWN, state="running")]
    for number in range(3):
        curves.append(Curve(choose(AXES, curves, 80, random(number)), state="running"))
    decades = sorted(int(np.log10(curve.values[RATE]) + 5) for curve in curves)
    assert decades == [0, 1, 2, 3], "one in each quarter, that of the configuration is known"
    assert all(1.0 < curve.values[WEIGHT] < 4.0 for curve in curves), "the others stay near the configuration"


@pytest.mark.parametrize("rates", [[1e-4, 1e-3], [1e-4, 3e-4, 1e-3]])
def test_few_learning_rates_are_tried_once_each(rates: list[float]) -> None:
    """Where a quarter of the range has no choice of its own, the test of rates comes to an end all the same."""
    line = {"type": "categorical", "choices": rates}
    axes = Axes.of(SearchSpace.from_dict({RATE: line, WEIGHT: LINES[WEIGHT]}), OWN)
    curves = [Curve({RATE: rate, WEIGHT: 2.0}, {10: 5.0, 80: 10.0}) for rate in rates]
    assert _rate_to_test(axes, curves, random(0)) is None
    assert _rate_to_test(axes, curves[:1], random(0)) is not None


def test_it_goes_where_the_best_is_expected() -> None:
    curves = [scored({RATE: rate, WEIGHT: weight}) for rate in (3e-5, 3e-4, 3e-3, 3e-2) for weight in (1.0, 4.0)]
    chosen = [choose(AXES, curves, 80, random(seed))[RATE] for seed in range(6)]
    assert all(1e-4 < rate < 1e-2 for rate in chosen)


def test_it_depends_on_curves_and_stream_alone() -> None:
    curves = [scored({RATE: rate, WEIGHT: 2.0}) for rate in (3e-5, 3e-4, 3e-3, 3e-2)]
    assert choose(AXES, curves, 80, random(1)) == choose(AXES, curves, 80, random(1))
    assert choose(AXES, curves, 80, random(1)) != choose(AXES, curves, 80, random(2))


def test_trials_at_once_are_spread() -> None:
    """A trial that runs and has said nothing is taken to end as expected: none is sent to the same place."""
    curves = [scored({RATE: rate, WEIGHT: 2.0}) for rate in (3e-5, 3e-4, 3e-3, 3e-2)]
    for seed in range(8):
        curves.append(Curve(choose(AXES, curves, 80, random(seed)), state="running"))
    places = np.array([AXES.place(curve.values) for curve in curves[4:]])
    apart = np.sqrt(((places[:, None] - places[None]) ** 2).sum(-1))[np.triu_indices(8, 1)]
    assert apart.min() > 0.05


@pytest.mark.parametrize("infeasible", [False, True])
def test_it_keeps_away_from_what_fails(infeasible: bool) -> None:
    """Of the two sides of the best learning rate, trials on the upper one diverge, or do not keep a constraint."""
    curves = [scored({RATE: rate, WEIGHT: 2.0}) for rate in (1e-5, 1e-4, 3e-4, 9e-4)]
    for rate in (1.2e-3, 2e-3, 1e-2, 6e-2):
        values = {RATE: rate, WEIGHT: 2.0}
        curves.append(scored(values, feasible=False) if infeasible else Curve(values, state="failed"))
    chosen = [choose(AXES, curves, 80, random(seed))[RATE] for seed in range(8)]
    assert np.median(chosen) < 1.2e-3


def test_a_stated_prior_draws_and_fades() -> None:
    """It decides among places of which nothing is known, and no longer once the curves say otherwise."""
    prior = {"prior": {"center": 6.0, "confidence": "high"}}
    stated = Axes.of(SearchSpace.from_dict({RATE: LINES[RATE], WEIGHT: {**LINES[WEIGHT], **prior}}), OWN)
    flat = [Curve({RATE: rate, WEIGHT: 1.0}, {10: 5.0, 80: 10.0}) for rate in (3e-5, 3e-4, 3e-3, 3e-2)]
    chosen = [choose(stated, flat, 80, random(seed))[WEIGHT] for seed in range(6)]
    assert np.median(chosen) > 4.0
    told = [*flat]
    for n, weight in enumerate(np.geomspace(0.5, 8.0, 24)):
        rate = (3e-5, 3e-4, 3e-3, 3e-2)[n % 4]
        told.append(Curve({RATE: rate, WEIGHT: float(weight)}, {10: 5.0, 80: 30.0 - 8 * abs(np.log(weight / 0.7))}))
    chosen = [choose(stated, told, 80, random(seed))[WEIGHT] for seed in range(6)]
    assert np.median(chosen) < 1.5


def test_without_a_learning_rate_it_begins_near_the_configuration() -> None:
    axes = Axes.of(SearchSpace.from_dict({WEIGHT: LINES[WEIGHT]}), {WEIGHT: 2.0})
    assert 0.5 <= choose(axes, [], 80, random(0))[WEIGHT] <= 8.0


@pytest.mark.parametrize("z", [2.0, 0.0, -0.9, -1.1, -5.0, -20.0])
def test_expected_improvement_is_the_integral(z: float) -> None:
    """Relative to its density at the bound, so that the integral has digits left where it is tiny."""
    found = log_expected_improvement(np.array([3 * z]), np.array([3.0]), 0.0)[0]

    def relative(x: float) -> float:
        return x * float(np.exp(stats.norm.logpdf(x / 3 - z) - stats.norm.logpdf(z))) / 3

    value, _ = integrate.quad(relative, 0, 3 * (z + 40) if z > -10 else 3.0)
    assert found == pytest.approx(np.log(value) + stats.norm.logpdf(z), abs=1e-5)


def test_expected_improvement_has_a_limit_and_no_infinity() -> None:
    far = log_expected_improvement(np.array([-1e3, -1e5]), np.ones(2), 0.0)
    assert np.isfinite(far).all()
    assert far[0] > far[1]
