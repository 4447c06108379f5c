"""How far metrics would move with other images of the same kind: the bootstrap over images.

The images are drawn again with replacement, and every metric is computed with each image as often as it was drawn
(`Measures.values`). Two models on the same images are compared draw by draw: images that are hard for both move both.
(Efron and Tibshirani 1993, chapters 6 and 13.)

Letters: I images, B draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from raytune_m2f.evaluation.measures import Measures
from raytune_m2f.evaluation.overlaps import Floats

DRAWS = 200
"""For intervals: a standard error is then known to 5 %."""
Z = 1.96
"""Standard errors on either side of a value that hold 95 % of a normal distribution."""
AT_ONCE = 50
"""Draws: their arrays stay in the cache."""


class Interval(NamedTuple):
    """A metric and its standard error, NaN where that is not known."""

    value: float
    error: float

    @property
    def margin(self) -> float:
        """Half of the interval of 95 %, which lies around the value: draws, in which images repeat, lie beside it."""
        return Z * self.error

    @property
    def low(self) -> float:
        """Where the interval of 95 % begins."""
        return self.value - self.margin

    @property
    def high(self) -> float:
        """Where it ends."""
        return self.value + self.margin


class Difference(NamedTuple):
    """A metric of two models A and B on the same images: A - B with its interval, and the share of draws, ties counted
    half, in which A is better."""

    a: float
    b: float
    difference: Interval
    better: float


def draw(images: int, count: int) -> Floats:
    """(I, B): how often each draw has each image; the same every time."""
    if images == 0:
        return np.zeros((0, count))
    chances = np.full(images, 1 / images)
    return np.asarray(np.random.default_rng(0).multinomial(images, chances, size=count).T, np.float64)


def standard_error(values: Floats) -> float:
    """Of (B,) draws; NaN if fewer than two are numbers."""
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def standard_errors(measures: Measures, count: int) -> dict[str, float]:
    """ "<metric>_se" of `Measures.headlines`, in percent points."""
    values = drawn(measures.headlines, measures.images, count)
    return {f"{name}_se": standard_error(each) for name, each in values.items()}


def intervals(measures: Measures, count: int = DRAWS) -> dict[str, Interval]:
    """Every metric with its interval."""
    values = drawn(measures.values, measures.images, count)
    whole = measures.values(measures.once)
    return {name: Interval(float(value[0]), standard_error(values[name])) for name, value in whole.items()}


def differences(a: Measures, b: Measures, count: int = DRAWS) -> dict[str, Difference]:
    """Every metric that two models have, on the same images of the same dataset."""
    first, second = a.values(a.once), b.values(b.once)
    ours_drawn, theirs_drawn = (drawn(each.values, each.images, count) for each in (a, b))
    found: dict[str, Difference] = {}
    for name in (name for name in first if name in second):
        ours, theirs, apart = float(first[name][0]), float(second[name][0]), ours_drawn[name] - theirs_drawn[name]
        apart = apart[np.isfinite(apart)]
        better = float(np.mean((apart > 0) + 0.5 * (apart == 0))) if len(apart) else float("nan")
        found[name] = Difference(ours, theirs, Interval(ours - theirs, standard_error(apart)), better)
    return found


def drawn(values: Callable[[Floats], dict[str, Floats]], images: int, count: int) -> dict[str, Floats]:
    """(B,) each: metrics of every draw, by a function of weightings (I, B) of the images such as `Measures.values`."""
    weights = draw(images, count if images > 1 else 0)  # of one image nothing is known of the others of its kind
    parts = [values(weights[:, at : at + AT_ONCE]) for at in range(0, max(weights.shape[1], 1), AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
