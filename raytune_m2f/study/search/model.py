"""A Gaussian process over (keys, iteration) that has seen every report of every trial.

    score(x, t) = c(t) + f(x, t) + g(trial, t) + noise

    x     features of the keys, t the logarithm of the share of a training
    c     the course that all trials have in common
    f     what the keys do: a sum of one function of each key and one of all together, smooth over t
    g     what a trial has to itself and keeps: its seed

Every report counts, of stopped and running trials too: a trial that was stopped early says what it says at its
iteration, and the smoothness over t carries it to the end. A trial of an earlier study says of `f` as much as the
studies are found to have in common (one correlation, learned with the rest); with own results it is needed less.

What is learned of lengths and sizes is the maximum of the posterior (Rasmussen and Williams, Gaussian Processes for
Machine Learning, 2006, section 5.4), under priors that hold where little is known. Curves are a known kind of model for
this: Swersky et al., Freeze-Thaw Bayesian Optimization, 2014, and Kandasamy et al., Multi-fidelity Bayesian
Optimisation with Continuous Approximations, 2017.

Letters: N reports, D features, K keys, P points that are asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve

Ints = NDArray[np.int64]

APART = 1.9
"""Of a trial's reports the last counts, and of those before it one for each such factor of iterations."""
MOST_REPORTS = 250
"""An inversion takes some 10 ms. The last report of each trial of this study first, then the newest of the others."""
JITTER = 1e-6
STEPS = 40


@dataclass(frozen=True)
class Rows:
    """Reports.

    Attributes:
        x: (N, D) features.
        t: (N,) logarithms of shares of a training, 0 at its end.
        trial: (N,) which curve each is of.
        task: (N,) 0 this study's, else an earlier one's.
    """

    x: Floats
    t: Floats
    trial: Ints
    task: Ints

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class Sizes:
    """What is learned beside the function itself; all in logarithms but the last two, which are logits."""

    lengths: Floats
    course: float
    time: float
    keys: float
    own: float
    noise: float
    additive: float
    common: float

    PRIOR = {
        "course": (0.0, 0.7), "time": (0.7, 0.5), "keys": (0.0, 0.7), "own": (-1.9, 0.6), "noise": (-2.6, 0.6),
        "additive": (0.0, 1.0), "common": (0.5, 1.5),
    }  # fmt: skip
    """Mean and standard deviation of each, for scores of unit variance; of lengths LENGTH."""

    @classmethod
    def of(cls, vector: Floats) -> Sizes:
        return cls(vector[: -len(cls.PRIOR)], *vector[-len(cls.PRIOR) :])

    @classmethod
    def prior(cls, keys: int) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the vector."""
        rest = list(cls.PRIOR.values())
        return (
            np.array([LENGTH[0]] * keys + [mean for mean, _ in rest]),
            np.array([LENGTH[1]] * keys + [spread for _, spread in rest]),
        )


LENGTH = (-0.7, 0.7)
"""Of the logarithm of a length, as a share of a key's range: 0.5, from 0.25 to 1."""


def _logistic(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


class Kernel:
    """How alike two reports are, and how that changes with the sizes.

    Args:
        groups: for each key the columns of its features.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self.groups = groups

    def __call__(self, a: Rows, b: Rows, sizes: Sizes) -> Floats:
        """(A, B) covariances, without noise."""
        return sum(part for part, _ in self._parts(a, b, sizes, gradients=False))  # type: ignore[return-value]

    def gradients(self, a: Rows, sizes: Sizes) -> tuple[Floats, list[Floats]]:
        """(A, A) covariances without noise, and their derivatives by each number of `Sizes` but the noise, in order."""
        keys = len(self.groups)
        total, slopes = np.zeros((len(a), len(a))), [np.zeros((len(a), len(a))) for _ in range(keys + 7)]
        for part, found in self._parts(a, a, sizes, gradients=True):
            total += part
            for place, slope in found:
                slopes[place] += slope
        return total, slopes

    def _parts(
        self, a: Rows, b: Rows, sizes: Sizes, *, gradients: bool
    ) -> Iterator[tuple[Floats, list[tuple[int, Floats]]]]:
        """Course, keys and own part, each with its derivatives by place."""
        keys = len(self.groups)
        COURSE, TIME, KEYS, OWN, _, ADDITIVE, COMMON = range(keys, keys + 7)
        apart = (a.t[:, None] - b.t[None, :]) ** 2 * np.exp(-2 * sizes.time)
        over_time = np.exp(-0.5 * apart)
        same_task = a.task[:, None] == b.task[None, :]
        shared = _logistic(sizes.common)
        course = np.exp(2 * sizes.course) * over_time * same_task
        yield course, [(COURSE, 2 * course), (TIME, course * apart)] if gradients else []

        squares = [
            ((a.x[:, None, group] - b.x[None, :, group]) ** 2).sum(-1) * np.exp(-2 * length)
            for group, length in zip(self.groups, sizes.lengths, strict=True)
        ]
        each = [np.exp(-0.5 * square) for square in squares]
        together, alone = np.exp(-0.5 * sum(squares)), sum(each) / keys
        weight = _logistic(sizes.additive)
        task = np.where(same_task, 1.0, shared)
        scale = np.exp(2 * sizes.keys) * over_time * task
        found = scale * (weight * alone + (1 - weight) * together)
        slopes: list[tuple[int, Floats]] = []
        if gradients:
            slopes = [
                (k, scale * squares[k] * (weight * each[k] / keys + (1 - weight) * together)) for k in range(keys)
            ]
            slopes += [(TIME, found * apart), (KEYS, 2 * found)]
            slopes.append((ADDITIVE, scale * weight * (1 - weight) * (alone - together)))
            slopes.append((COMMON, found * np.where(same_task, 0.0, 1 - shared)))
        yield found, slopes

        own = np.exp(2 * sizes.own) * over_time * (a.trial[:, None] == b.trial[None, :])
        yield own, [(OWN, 2 * own), (TIME, own * apart)] if gradients else []


@dataclass(frozen=True)
class CurveModel:
    """What is believed of scores, in the units of the scores.

    Attributes:
        axes: of the space.
        max_iter: iterations of a whole training.
        noise: standard deviation with which the same values score twice at the end (another seed).
    """

    axes: Axes
    max_iter: int
    noise: float
    _kernel: Kernel
    _rows: Rows
    _sizes: Sizes
    _factor: Floats
    _weights: Floats
    _mean: float
    _scale: float

    @classmethod
    def fit(cls, axes: Axes, curves: Sequence[Curve], max_iter: int) -> CurveModel:
        """The model of these curves; the same curves give the same model. Those without a score are left out.

        Raises:
            ValueError: there is no score at all.
        """
        rows, scores = reports_of(axes, curves, max_iter)
        if not len(rows):
            raise ValueError("no curve has a score: there is nothing to learn from")
        mean, scale = _standard(scores, rows)
        y = (scores - mean) / scale
        kernel = Kernel(list(axes.groups.values()))
        middle, spread = Sizes.prior(len(kernel.groups))

        def loss(vector: Floats) -> tuple[float, Floats]:
            return _loss(kernel, rows, y, vector, middle, spread)

        bounds = list(zip(middle - 3 * spread, middle + 3 * spread, strict=True))
        found = minimize(loss, middle, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
        sizes = Sizes.of(found.x)
        factor = cholesky(_noisy(kernel(rows, rows, sizes), sizes), lower=True)
        weights = cho_solve((factor, True), y)
        noise = scale * float(np.sqrt(np.exp(2 * sizes.own) + np.exp(2 * sizes.noise)))
        return cls(axes, max_iter, noise, kernel, rows, sizes, factor, weights, mean, scale)

    def predict(self, points: Sequence[Mapping[str, Any]], share: float = 1.0) -> tuple[Floats, Floats]:
        """(P,) mean and (P,) standard deviation of what trials of these values score at this share of a training, were
        there no seeds."""
        asked = self._asked(points, share)
        across = self._kernel(asked, self._rows, self._sizes)
        solved = solve_triangular(self._factor, across.T, lower=True)
        variance = self._variance - (solved**2).sum(0)
        mean: Floats = self._mean + self._scale * (across @ self._weights)
        return mean, self._scale * np.sqrt(np.maximum(variance, 1e-10))

    def draws(
        self, points: Sequence[Mapping[str, Any]], count: int, random: np.random.Generator, share: float = 1.0
    ) -> Floats:
        """(count, P): joint draws of the same."""
        asked = self._asked(points, share)
        across = self._kernel(asked, self._rows, self._sizes)
        solved = solve_triangular(self._factor, across.T, lower=True)
        own = np.exp(2 * self._sizes.own) * np.eye(len(points))
        covariance = self._kernel(asked, asked, self._sizes) - own - solved.T @ solved
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        drawn = across @ self._weights + random.standard_normal((count, len(points))) @ root.T
        return np.asarray(self._mean + self._scale * drawn)

    def final(self, number: int) -> tuple[float, float]:
        """Mean and standard deviation of what curve `number` of those that were fitted scores at its end."""
        mine = np.flatnonzero(self._rows.trial == number)
        if not len(mine):
            raise ValueError(f"curve {number} has no score")
        first = mine[:1]
        asked = Rows(self._rows.x[first], np.zeros(1), self._rows.trial[first], self._rows.task[first])
        across = self._kernel(asked, self._rows, self._sizes)
        solved = solve_triangular(self._factor, across.T, lower=True)
        variance = self._variance + np.exp(2 * self._sizes.own) - float((solved**2).sum())
        mean = self._mean + self._scale * float((across @ self._weights)[0])
        return mean, self._scale * float(np.sqrt(max(variance, 1e-10)))

    @property
    def _variance(self) -> float:
        """Of a point that nothing is known of, without what a trial has to itself."""
        return float(np.exp(2 * self._sizes.course) + np.exp(2 * self._sizes.keys))

    def _asked(self, points: Sequence[Mapping[str, Any]], share: float) -> Rows:
        """New trials of this study, each of its own."""
        P = len(points)
        trial = -1 - np.arange(P)
        return Rows(self.axes.features(points), np.full(P, np.log(share)), trial, np.zeros(P, np.int64))


def reports_of(axes: Axes, curves: Sequence[Curve], max_iter: int) -> tuple[Rows, Floats]:
    """The reports that count, and their scores (N,)."""
    tasks = {"": 0}
    trial: list[int] = []
    share: list[float] = []
    score: list[float] = []
    task: list[int] = []
    for number, curve in enumerate(curves):
        bound = float("inf")
        for iteration in sorted(curve.scores, reverse=True):
            if iteration > bound or iteration <= 0:
                continue
            bound = iteration / APART
            trial.append(number)
            share.append(min(1.0, iteration / max_iter))
            score.append(curve.scores[iteration])
            task.append(tasks.setdefault(curve.task, len(tasks)))
    features = axes.features([curve.values for curve in curves])
    rows = Rows(features[trial], np.log(share), np.array(trial, np.int64), np.array(task, np.int64))
    last = np.diff(rows.trial, prepend=-1) > 0  # a trial's reports come from its last to its first
    kept = np.sort(np.lexsort((np.arange(len(rows)), last & (rows.task == 0)))[-MOST_REPORTS:])
    return Rows(rows.x[kept], rows.t[kept], rows.trial[kept], rows.task[kept]), np.array(score, np.float64)[kept]


def _standard(scores: Floats, rows: Rows) -> tuple[float, float]:
    """What is subtracted from scores and what they are divided by."""
    return float(scores.mean()), max(float(scores.std()), 1e-6 * max(1.0, abs(float(scores.mean()))), 1e-9)


def _noisy(covariance: Floats, sizes: Sizes) -> Floats:
    return np.asarray(covariance + (np.exp(2 * sizes.noise) + JITTER) * np.eye(len(covariance)))


def _loss(
    kernel: Kernel, rows: Rows, y: Floats, vector: Floats, middle: Floats, spread: Floats
) -> tuple[float, Floats]:
    """The negative logarithm of the posterior of the sizes, and its gradient."""
    sizes = Sizes.of(vector)
    covariance, slopes = kernel.gradients(rows, sizes)
    slopes[len(kernel.groups) + 4] = 2 * np.exp(2 * sizes.noise) * np.eye(len(rows))
    factor = cholesky(_noisy(covariance, sizes), lower=True)
    inverse = cho_solve((factor, True), np.eye(len(rows)))
    weights = inverse @ y
    inner = np.outer(weights, weights) - inverse
    away = (vector - middle) / spread
    value = 0.5 * float(y @ weights) + float(np.log(np.diag(factor)).sum()) + 0.5 * float(away @ away)
    return value, np.array([-0.5 * float((inner * slope).sum()) for slope in slopes]) + away / spread
