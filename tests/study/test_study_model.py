"""The model of learning curves: its mathematics, and what it makes of curves whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve, estimated_end
from raytune_m2f.study.search.model import MOST_REPORTS, CurveModel, Kernel, Sizes, _loss, reports_of
from raytune_m2f.study.space import SearchSpace

LINES = {
    "SOLVER.BASE_LR": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "MODEL.MASK_FORMER.CLASS_WEIGHT": {"type": "loguniform", "low": 0.5, "high": 8.0},
    "SOLVER.LR_SCHEDULER_NAME": {"type": "categorical", "choices": ["WarmupCosineLR", "WarmupPolyLR"]},
}
RATE, WEIGHT, SCHEDULE = LINES
AXES = Axes.of(SearchSpace.from_dict(LINES), {RATE: 1e-4, WEIGHT: 2.0, SCHEDULE: "WarmupCosineLR"})
END = 80


def height(place: Floats) -> float:
    """The true score at the end: a hill over the learning rate, a slope over the weight."""
    return float(40 * np.exp(-0.5 * ((place[0] - 0.7) / 0.25) ** 2) + 5 * place[1])


def curve(place: Floats, upto: int = END, random: np.random.Generator | None = None, **others: Any) -> Curve:
    """What a trial there has shown: it rises towards its height."""
    noise = 0.0 if random is None else random.normal(0, 0.5)
    scores = {i: height(place) * (1 - np.exp(-3 * i / END)) + noise for i in range(10, upto + 1, 10)}
    return Curve(AXES.values(place), scores, **others)


def some(count: int, seed: int = 0) -> tuple[Floats, list[Curve]]:
    """Places, and trials there of which one in three was trained to its end."""
    random = np.random.default_rng(seed)
    places = AXES.draw(random, count)
    return places, [curve(place, 10 if n % 3 else END, random) for n, place in enumerate(places)]


def test_the_gradient_is_that_of_the_loss() -> None:
    random = np.random.default_rng(0)
    _, curves = some(8)
    curves += [curve(place, END, random, task="earlier") for place in AXES.draw(random, 3)]
    rows, scores = reports_of(AXES, curves, END)
    y = (scores - scores.mean()) / scores.std()
    kernel, (middle, spread) = Kernel(list(AXES.groups.values())), Sizes.prior(len(LINES))
    vector = middle + 0.3 * random.standard_normal(len(middle))
    _, gradient = _loss(kernel, rows, y, vector, middle, spread)
    steps = 1e-5 * np.eye(len(vector))
    numeric = [
        (_loss(kernel, rows, y, vector + s, middle, spread)[0] - _loss(kernel, rows, y, vector - s, middle, spread)[0])
        / 2e-5
        for s in steps
    ]
    assert gradient == pytest.approx(numeric, rel=1e-4, abs=1e-4)


def test_it_foretells_the_ends_of_points_that_it_has_not_seen() -> None:
    """From 30 trials, of which 20 were stopped at an eighth: a straight line through their means would be off by 13."""
    _, curves = some(30)
    model = CurveModel.fit(AXES, curves, END)
    places = AXES.draw(np.random.default_rng(1), 50)
    mean, spread = model.predict([AXES.values(place) for place in places])
    truth = np.array([height(place) * (1 - np.exp(-3)) for place in places])
    assert np.sqrt(np.mean((mean - truth) ** 2)) < 0.3 * truth.std()
    assert np.mean(np.abs(mean - truth) < 3 * spread) > 0.8


def test_a_stopped_trial_counts() -> None:
    """Without the stopped trials it knows less."""
    _, curves = some(30)
    whole = [one for one in curves if one.last == END]
    places = AXES.draw(np.random.default_rng(1), 50)
    points, truth = [AXES.values(place) for place in places], np.array([height(p) * (1 - np.exp(-3)) for p in places])
    off = [np.sqrt(np.mean((CurveModel.fit(AXES, c, END).predict(points)[0] - truth) ** 2)) for c in (curves, whole)]
    assert off[0] < 0.7 * off[1]


def test_what_a_stopped_trial_would_reach() -> None:
    _, curves = some(30)
    model = CurveModel.fit(AXES, curves, END)
    number = next(n for n, one in enumerate(curves) if one.last == 10)
    mean, spread = model.final(number)
    truth = height(AXES.place(curves[number].values)) * (1 - np.exp(-3))
    assert abs(mean - truth) < max(4.0, 3 * spread)
    with pytest.raises(ValueError, match="has no score"):
        CurveModel.fit(AXES, [*curves, Curve({RATE: 1e-3})], END).final(len(curves))


def test_of_many_reports_the_last_of_each_trial_counts_and_else_the_newest() -> None:
    random = np.random.default_rng(0)
    earlier = [curve(place, task="earlier") for place in AXES.draw(random, 40)]
    own = [curve(place) for place in AXES.draw(random, 100)]
    rows, scores = reports_of(AXES, [*earlier, *own], END)
    assert len(rows) == len(scores) == MOST_REPORTS
    at_end = rows.trial[rows.t == 0]
    assert set(range(40, 140)) <= set(at_end.tolist())
    assert not (rows.task[rows.trial >= 40]).any()
    assert rows.trial[rows.t < 0].min() > 40  # of the others the newest
    assert scores == pytest.approx(
        [[*earlier, *own][n].scores[round(END * np.exp(t))] for n, t in zip(rows.trial, rows.t, strict=True)]
    )


def test_the_same_curves_give_the_same_model() -> None:
    _, curves = some(12)
    point = [AXES.values(np.full(3, 0.4))]
    assert CurveModel.fit(AXES, curves, END).predict(point) == CurveModel.fit(AXES, curves, END).predict(point)


def test_draws_are_those_of_the_prediction() -> None:
    _, curves = some(12)
    model = CurveModel.fit(AXES, curves, END)
    points = [AXES.values(place) for place in AXES.draw(np.random.default_rng(2), 4)]
    mean, spread = model.predict(points)
    drawn = model.draws(points, 4000, np.random.default_rng(0))
    assert drawn.shape == (4000, 4)
    assert drawn.mean(0) == pytest.approx(mean, abs=0.15 * float(spread.max()))
    assert drawn.std(0) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("alike", [True, False])
def test_an_earlier_study_helps_where_it_is_alike_and_harms_little_where_it_is_not(alike: bool) -> None:
    """An earlier study of the same hill, or of its mirror image, beside few own trials."""
    random = np.random.default_rng(3)
    _, own = some(8, seed=5)
    mirrored = [1.0, 1.0, 1.0]
    earlier = []
    for place in AXES.draw(random, 20):
        told = place if alike else np.array(mirrored) - place
        earlier.append(Curve(AXES.values(place), curve(told).scores, task="/earlier"))
    places = AXES.draw(np.random.default_rng(1), 60)
    points, truth = [AXES.values(place) for place in places], np.array([height(p) * (1 - np.exp(-3)) for p in places])
    off = [
        np.sqrt(np.mean((CurveModel.fit(AXES, c, END).predict(points)[0] - truth) ** 2)) for c in (own, own + earlier)
    ]
    assert off[1] < (0.6 * off[0] if alike else 1.5 * off[0])


def test_nothing_is_made_of_nothing() -> None:
    with pytest.raises(ValueError, match="no curve has a score"):
        CurveModel.fit(AXES, [Curve({RATE: 1e-3}, state="running")], END)


def test_the_end_is_estimated_by_what_is_alike() -> None:
    whole = [Curve({}, {10: 5.0, 80: 20.0}), Curve({}, {10: 1.0, 80: 2.0}), Curve({}, {10: 5.5, 80: 22.0})]
    assert estimated_end(Curve({}, {10: 5.2}), whole, 80) == pytest.approx(5.2 + 15.0)
    assert estimated_end(Curve({}, {10: 5.2}), [], 80) == 5.2
    assert estimated_end(Curve({}, {10: 9.0, 80: 7.0}), whole, 80) == 9.0
