"""Which point is tried next (`--sampler auto`).

First the configuration's own values, which the study queues itself; then some learning rates over the whole range, the
other keys near the configuration: where training becomes fast, and where it breaks, is what matters most (a learning
rate range test, Smith, Cyclical Learning Rates for Training Neural Networks, 2017, section 3.3, with trials that early
stopping keeps short); then what the model of all curves expects the most of: the expected improvement of the score at
the end, times what is believed of the place beforehand, which counts the less the more trials there are (Hvarfner et
al., piBO: Augmenting Acquisition Functions with User Beliefs for Bayesian Optimization, 2022, equation 6).

What is chosen depends on the curves and the stream of random numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import log_ndtr, ndtr

from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.search.model import CurveModel

LEARNING_RATE = "SOLVER.BASE_LR"
RATES = (0.625, 0.375, 0.875, 0.125)
"""The quarters of the range of the learning rate, in the order in which they are tried."""
NEAR = 0.25
"""How near the configuration the other keys are then, as a share of their spread."""
FEWEST = 3
"""Curves with a score, before which there is no model."""
CANDIDATES = 128
"""Places of each kind: drawn alike from all, as they are believed in, and near the best."""
BEST = 3
BELIEF = 1.0
"""What is believed beforehand counts as much over the number of trials."""
CLOSE = 0.1
"""Nearer than this to a trial that has just begun there is little to learn, as a share of the ranges."""


def choose(axes: Axes, curves: Sequence[Curve], max_iter: int, random: np.random.Generator) -> dict[str, Any]:
    """The values of the next trial.

    Args:
        curves: of all trials that have begun, the configuration's own included, failed and running ones too, and of
            earlier studies.
    """
    own = [curve for curve in curves if not curve.task]
    place = _rate_to_test(axes, own, random)
    if place is None and sum(bool(curve.scores) for curve in curves) >= FEWEST:
        place = _most_expected(axes, curves, max_iter, random)
    if place is None:
        place = axes.draw_prior(random, 1)[0]
    return axes.values(place)


def _rate_to_test(axes: Axes, own: Sequence[Curve], random: np.random.Generator) -> Floats | None:
    """A place with a learning rate of a quarter that no trial has been in; None if there is none."""
    if LEARNING_RATE not in axes.keys:
        return None
    column = axes.keys.index(LEARNING_RATE)

    def quarter(values: Mapping[str, Any]) -> int:
        return min(int(4 * axes.place(values)[column]), 3)

    tried = {quarter(curve.values) for curve in own}
    for rate in RATES:
        place = np.clip(random.normal(axes.center, NEAR * axes.spread), 0.0, 1.0)
        place[column] = rate + random.uniform(-1, 1) / 16  # its quarter's middle half
        if quarter(axes.values(place)) not in tried:  # of few choices not every quarter has one
            return place
    return None


def _most_expected(axes: Axes, curves: Sequence[Curve], max_iter: int, random: np.random.Generator) -> Floats:
    """The candidate with the largest product of expected improvement, belief and chance to train at all."""
    model, waiting = _with_running(axes, curves, max_iter)
    own = [number for number, curve in enumerate(waiting) if not curve.task and curve.scores and curve.feasible]
    ends = {number: model.final(number)[0] for number in own}
    ranked = sorted(ends, key=lambda number: -ends[number])[:BEST]
    near = [
        axes.draw_near(random, axes.place(waiting[number].values), CANDIDATES // BEST, spread)
        for number in ranked
        for spread in (0.08, 0.2)
    ]
    places = np.concatenate([axes.draw(random, CANDIDATES), axes.draw_prior(random, CANDIDATES), *near])
    points = [axes.values(place) for place in places]
    mean, spread = model.predict(points)
    best = max(ends.values(), default=float(mean.max()))
    gain = log_expected_improvement(mean, spread, best)
    gain += BELIEF / max(1, len(own)) * axes.log_prior(places)
    gain += np.log1p(-chance_to_fail(axes, curves, points, max_iter)) + log_room(axes, curves, points)
    return np.asarray(places[int(np.argmax(gain))])


def _with_running(axes: Axes, curves: Sequence[Curve], max_iter: int) -> tuple[CurveModel, list[Curve]]:
    """The model, and curves in which those that run and have said nothing end as it expects: they need no second."""
    model = CurveModel.fit(axes, curves, max_iter)
    silent = [n for n, curve in enumerate(curves) if curve.state == "running" and not curve.scores]
    if not silent:
        return model, list(curves)
    means, _ = model.predict([curves[number].values for number in silent])
    expected = dict(zip(silent, means.tolist(), strict=True))
    told = [
        Curve(curve.values, {max_iter: expected[number]}, "running") if number in expected else curve
        for number, curve in enumerate(curves)
    ]
    return CurveModel.fit(axes, told, max_iter), told


def log_expected_improvement(mean: Floats, spread: Floats, best: float) -> Floats:
    """(N,): the logarithm of E[max(score - best, 0)] of normal scores, exact also where it is tiny.

    Jones et al., Efficient Global Optimization of Expensive Black-Box Functions, 1998, equation 15.
    """
    z = (mean - best) / spread
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)
    # E = phi(z) + z Phi(z) = phi(z) (1 + z Phi(z) / phi(z)): the second form has digits left far below, to a limit
    inner = np.maximum(1 + np.minimum(z, 0) * np.exp(np.minimum(log_ndtr(z) - log_density, 50.0)), 1e-12)
    near = np.log(np.maximum(np.exp(log_density) + z * ndtr(z), 1e-300))
    far = log_density + np.where(z > -1e3, np.log(inner), -2 * np.log(np.maximum(-z, 1.0)))
    return np.asarray(np.log(spread) + np.where(z > -1, near, far))


def chance_to_fail(axes: Axes, curves: Sequence[Curve], points: Sequence[dict[str, Any]], max_iter: int) -> Floats:
    """(P,): the chance to diverge, to have no memory, or not to keep the constraints; 0 where no trial did.

    The same model, of 1 for the trials that failed and 0 for those that trained: which keys it depends on is learned.
    """
    known = [curve for curve in curves if curve.state == "failed" or curve.scores]
    failed = [curve.state == "failed" or not curve.feasible for curve in known]
    if not any(failed):
        return np.zeros(len(points))
    told = [Curve(curve.values, {max_iter: float(one)}) for curve, one in zip(known, failed, strict=True)]
    mean, spread = CurveModel.fit(axes, told, max_iter).predict(points)
    return np.asarray(np.minimum(ndtr((mean - 0.5) / np.maximum(spread, 0.05)), 0.999))


def log_room(axes: Axes, curves: Sequence[Curve], points: Sequence[dict[str, Any]]) -> Floats:
    """(P,): the logarithm of a factor below 1 near a trial that runs and has said nothing yet."""
    silent = [curve.values for curve in curves if curve.state == "running" and not curve.scores]
    if not silent:
        return np.zeros(len(points))
    apart = ((axes.features(points)[:, None] - axes.features(silent)[None]) ** 2).sum(-1)
    return np.asarray(np.log(np.maximum(1 - np.exp(-0.5 * apart / CLOSE**2), 1e-12)).sum(1))
