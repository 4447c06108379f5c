"""What a search has learned, from a model whose truth is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest

from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.search.insight import (
    LEAST_CURVES,
    MOST_CURVES,
    Insight,
    KeyInsight,
    advice_on_rungs,
    expected_gain,
    key_insights,
    learn,
    most_telling,
    rung_ranks,
    spearman,
)
from raytune_m2f.study.space import SearchSpace

Values = Mapping[str, Any]
LR, DECAY, STEPS, KIND = "SOLVER.BASE_LR", "decay", "steps", "kind"
SPACE = SearchSpace.from_dict(
    {
        LR: {"type": "loguniform", "low": 1e-5, "high": 1e-1},
        DECAY: {"type": "uniform", "low": 0.0, "high": 1.0},
        STEPS: {"type": "int", "low": 1, "high": 4},
        KIND: {"type": "categorical", "choices": ["a", "b", "c"]},
    }
)
AXES = Axes.of(SPACE, {})


@dataclass(frozen=True)
class Known:
    """A model that knows the truth; each of its draws has another height and another slope along the first key."""

    truth: Callable[[Values], float]
    noise: float = 0.5
    doubt: float = 0.1

    def predict(self, points: Sequence[Values], share: float = 1.0) -> tuple[Floats, Floats]:
        return np.array([self.truth(values) for values in points]), np.full(len(points), self.doubt)

    def draws(self, points: Sequence[Values], count: int, random: np.random.Generator, share: float = 1.0) -> Floats:
        height, slope = random.normal(0.0, self.doubt, (2, count, 1))
        return np.asarray(self.predict(points)[0] + height + slope * np.array([lr(values) for values in points]))


def lr(values: Values) -> float:
    """-1 to 1."""
    return math.log10(values[LR]) / 2 + 1.5


def additive(values: Values) -> float:
    """Variances: 4 * 4/45 = 16/45 of LR, 2/9 of the choice, 1/12 of the decay, none of the steps."""
    return float(20.0 - 2 * (lr(values) ** 2) + values[DECAY] + (values[KIND] == "b"))


def found(truth: Callable[[Values], float], **others: Any) -> dict[str, KeyInsight]:
    return {key.key: key for key in key_insights(AXES, Known(truth, **others))}


def test_importances_are_shares_of_the_variance() -> None:
    keys = found(additive, doubt=0.01)
    variances = {LR: 16 / 45, KIND: 2 / 9, DECAY: 1 / 12, STEPS: 0.0}
    assert list(keys) == list(variances), "the most important first"
    for key, variance in variances.items():
        assert keys[key].importance == pytest.approx(variance / sum(variances.values()), abs=0.03)
        assert keys[key].total == pytest.approx(keys[key].importance, abs=0.03), "nothing works in pairs"


def test_what_is_not_sure_has_a_wide_error() -> None:
    assert found(additive, doubt=0.5)[LR].importance_error > 3 * found(additive, doubt=0.05)[LR].importance_error


def test_a_pair_counts_for_both_keys_in_total_alone() -> None:
    keys = found(lambda values: (values[DECAY] - 0.5) * (values[STEPS] - 2.5), doubt=0.0)
    for key in (DECAY, STEPS):
        assert keys[key].importance < 0.03
        assert keys[key].total == pytest.approx(1.0, abs=0.05)
    assert keys[LR].total < 0.03


def test_best_regions_are_in_the_units_of_the_keys() -> None:
    keys = found(additive, doubt=0.0, noise=0.5)
    low, high = keys[LR].low, keys[LR].high  # 2 x^2 < 0.5: half of the way from the middle
    assert low is not None
    assert high is not None
    assert math.log10(low) == pytest.approx(-4, abs=0.15)
    assert math.log10(high) == pytest.approx(-2, abs=0.15)
    assert keys[DECAY].low == pytest.approx(0.5, abs=0.05)
    assert keys[DECAY].high == 1.0
    assert keys[KIND].choices == ["b"]
    assert (keys[STEPS].low, keys[STEPS].high, keys[STEPS].open) == (1, 4, True)
    assert keys[KIND].words.endswith("best b")
    assert "no value is better than the noise" in keys[STEPS].words


def test_a_region_does_not_cross_what_is_bad() -> None:
    keys = found(lambda values: {1: 5.0, 2: 0.0, 3: 4.9, 4: 4.9}[values[STEPS]])
    assert (keys[STEPS].best, keys[STEPS].low, keys[STEPS].high) == (1, 1, 1)
    assert keys[STEPS].words.endswith("best 1")


def test_a_share_is_shown_as_it_is_trained() -> None:
    space = SearchSpace.from_dict({key: {"type": "share", "low": 1.0, "high": 4.0} for key in ("a", "b")})
    model = Known(lambda values: values["a"] / (values["a"] + values["b"]))
    model = type("Shares", (Known,), {"draws": lambda self, points, *_: self.predict(points)[0][None]})(
        model.truth, 0.1
    )

    def trained(values: Values) -> dict[str, Any]:
        return {key: 10 * value / sum(values.values()) for key, value in values.items()}

    best = {key.key: key.best for key in key_insights(Axes.of(space, {}), model, trained)}
    assert best == {"a": pytest.approx(10 * 4 / 6), "b": pytest.approx(10 * 1 / 3)}


# Rungs


def whole(number: int, at_rung: float, end: float) -> Curve:
    return Curve({DECAY: number / 10}, {10: at_rung, 20: at_rung, 40: (at_rung + end) / 2, 90: end})


def test_spearman_takes_ties_as_their_mean_rank() -> None:
    assert spearman([1, 2, 3], [10, 30, 90]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486833)  # scipy.stats.spearmanr
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0


def test_rungs_need_five_whole_trainings_and_ask_what_early_stopping_asks() -> None:
    curves = [whole(n, n, 2.0 * n) for n in range(5)]
    assert rung_ranks(curves[:4], [10], 90) == []
    stopped = Curve({}, {10: 99.0})
    first, second = rung_ranks([*curves, stopped], [10, 30], 90)
    assert (first.iteration, first.trials) == (10, 5)
    assert first.spearman == pytest.approx(1.0)
    assert second.spearman == pytest.approx(1.0)
    falling = [Curve({}, {10: n, 20: 0.0, 90: 1.0 + n}) for n in range(5)]
    assert rung_ranks(falling, [20], 90)[0].spearman == pytest.approx(1.0), "the best up to a rung counts"


def advice(curves: list[Curve], method: str = "asha") -> str:
    return advice_on_rungs(curves, rung_ranks(curves, [10], 90), 90, method)


def test_a_rung_that_ranks_otherwise_is_to_come_later() -> None:
    ends = [1.0, 9.0, 3.0, 7.0, 5.0]
    curves = [Curve({}, {10: float(n), 20: float(n), 40: end, 90: end}) for n, end in enumerate(ends)]
    assert advice(curves).endswith("raise it in a new study: --grace 40")
    assert advice(curves, "none").endswith("if you stop trials early, with --grace 40")
    late = [Curve({}, {10: float(n), 90: 10 + end}) for n, end in enumerate(ends)]
    assert advice(late).endswith("--early-stopping none")


def test_a_rung_that_ranks_alike_is_good_as_it_is() -> None:
    curves = [whole(n, n, 2.0 * n) for n in range(5)]
    assert advice(curves).endswith("the short budget ranks like the long one")
    assert advice(curves, "none").endswith("a new study saves much with --early-stopping promotion")
    assert advice(curves[:4]) == ""


# Gain


def trial(decay: float, lr: float, *, last: int = 90) -> Curve:
    values = {LR: lr, DECAY: decay, STEPS: 1, KIND: "b"}
    return Curve(values, {last: additive(values)})


def test_at_the_best_point_nothing_is_gained() -> None:
    best, middling = trial(1.0, 1e-3), trial(0.5, 1e-3)
    assert expected_gain(AXES, [best], Known(additive, doubt=0.0), 90).mean == 0.0
    gain = expected_gain(AXES, [middling], Known(additive, doubt=0.0), 90)
    assert 0.25 < gain.mean <= 0.5, "the best of the candidates"
    assert gain.error == pytest.approx(0.0, abs=1e-9)
    assert (gain.trials, gain.noise, gain.below_noise) == (10, 0.5, gain.mean < 0.5)


def test_doubt_is_worth_a_trial() -> None:
    gains = [expected_gain(AXES, [trial(1.0, 1e-3)], Known(additive, doubt=doubt), 90) for doubt in (0.0, 1.0, 4.0)]
    assert gains[0].mean < gains[1].mean < gains[2].mean
    assert gains[2].error > gains[1].error > 0


def test_noise_hides_what_is_to_be_gained() -> None:
    quiet, loud = (
        expected_gain(AXES, [trial(1.0, 1e-3)], Known(additive, doubt=1.0, noise=noise), 90) for noise in (0.1, 4.0)
    )
    assert 0 < loud.mean < quiet.mean
    assert loud.below_noise


def test_what_was_stopped_for_good_is_not_in_hand() -> None:
    stopped, kept = trial(1.0, 1e-3, last=10), trial(0.5, 1e-3)
    assert expected_gain(AXES, [stopped, kept], Known(additive, doubt=0.0), 90).mean == pytest.approx(0.5)
    assert expected_gain(AXES, [stopped], Known(additive, doubt=0.0), 90).mean == 0.0


# All of it


def curves(count: int) -> list[Curve]:
    return [whole_trial(n / count) for n in range(count)]


def whole_trial(decay: float) -> Curve:
    values = {LR: 10 ** (-4 * decay - 1), DECAY: decay, STEPS: 1, KIND: "a"}
    return Curve(values, {10: additive(values) / 2, 90: additive(values)})


def learned(given: list[Curve]) -> Insight:
    return learn(AXES, given, lambda _: Known(additive), 90, score="segm/AP", rungs=[10])


def test_too_few_trials_say_what_is_missing() -> None:
    failed = [Curve({LR: 1.0}, {10: 5.0}, "failed"), Curve({LR: 1e-3})]
    earlier = [Curve(c.values, c.scores, task="other") for c in curves(9)]
    few = learned([*curves(LEAST_CURVES - 1), *failed, *earlier])
    assert few.missing == "5 trials have a score, and 6 are needed"
    assert few.lines() == []
    assert (few.keys, few.gain) == ((), None)
    assert learned([*curves(LEAST_CURVES), *failed, *earlier]).trials == LEAST_CURVES


def test_where_all_score_the_same_nothing_is_said() -> None:
    same = [Curve(curve.values, {10: 0.0, 90: 0.0}) for curve in curves(8)]
    assert learned(same).missing == "all 8 trials have the same segm/AP"


def test_it_is_the_same_each_time_and_goes_through_json() -> None:
    insight = learned(curves(8))
    assert insight == learned(curves(8))
    assert Insight.from_dict(json.loads(json.dumps(asdict(insight)))) == insight
    first, *keys, rungs, gain = insight.lines()
    assert first == "learned from 8 trials, of the final segm/AP:"
    assert len(keys) == 4
    assert "ranks like the long one" in rungs
    assert gain.startswith("  10 more trials would bring ")


def test_the_model_gets_a_bounded_number_of_curves() -> None:
    few = curves(MOST_CURVES)
    assert most_telling(few) == few
    many = [trial(n / 400, 1e-3, last=90 if n % 10 == 0 else 10) for n in range(400)]
    chosen = most_telling([*many, *(Curve(c.values, c.scores, task="other") for c in many)])
    ours = [curve for curve in chosen if not curve.task]
    assert (len(ours), len(chosen)) == (MOST_CURVES, MOST_CURVES + MOST_CURVES // 2)
    assert sum(curve.last == 90 for curve in ours) == 40, "all that came to their end"
    assert ours == sorted(ours, key=many.index), "in their order"
