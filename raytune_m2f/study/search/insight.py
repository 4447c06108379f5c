"""What a search has learned: which keys matter and where they are best, whether short trainings rank like long ones,
and what more trials would bring.

importance  Functional ANOVA of the predicted final score over the cube: how much of its variance the main effect of a
            key explains, and how much all that the key takes part in, alone or in a pair. Each joint draw of the model
            at the same PLACES places is regressed on orthogonal polynomials of every key (of few values: on these) and
            on products of two keys'; the mean and the standard deviation over the draws are given. The model knows
            stopped trials too.
rungs       Spearman's correlation of the best score up to a rung with that of the whole training, as early stopping
            compares trials by the former and a study by the latter.
gain        By how much MORE trials, each seen once with its noise, are expected to raise the best final value that is
            predicted: the knowledge gradient of Frazier et al. (The Knowledge-Gradient Policy for Correlated Normal
            Beliefs, 2009) for trials that are chosen together. They are chosen greedily: each is the candidate that
            raises the mean over the joint draws of the best of them most. What one learns from one of them for the
            choice of the next is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.polynomial.legendre import legvander

from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.space.entries import Categorical, Entry, IntRange

LEAST_CURVES = 6
"""Trials with a score, below which nothing is said."""
LEAST_WHOLE = 5
"""Whole trainings, below which nothing is said of rungs."""
MORE = 10
"""Trials whose gain is estimated."""
MOST_CURVES = 100
"""Curves of the study itself that the model is given; of earlier ones half as many."""
PLACES, DRAWS = 512, 64
CANDIDATES, GAIN_DRAWS = 288, 512
DEGREE = 5
FEW_VALUES = 8
STEPS = 41
RANKS_ALIKE, RANKS_APART = 0.7, 0.5


class Predicts(Protocol):
    """What is asked of a `CurveModel`."""

    @property
    def noise(self) -> float:
        """Standard deviation with which the same point scores twice, at the end."""

    def predict(self, points: Sequence[Mapping[str, Any]], share: float = 1.0) -> tuple[Floats, Floats]:
        """(N,) mean and (N,) standard deviation of the score without noise."""

    def draws(
        self, points: Sequence[Mapping[str, Any]], count: int, random: np.random.Generator, share: float = 1.0
    ) -> Floats:
        """(count, N): joint draws of the same."""


@dataclass(frozen=True)
class KeyInsight:
    """What was learned of a key.

    Attributes:
        importance, importance_error: share of the variance of the final score that the key alone explains, 0 to 1; mean
            and standard deviation of what is believed.
        total: the same, with the pairs that it takes part in; never smaller.
        best: the value (of a range) or choice with the best predicted score, on average over the other keys.
        low, high: of a range, between which that score is within the noise of its best; None of a choice.
        choices: the choices within the noise of the best one; None of a range.
        open: whether that is all of the range, or all of the choices.
        words: the same in words.
    """

    key: str
    importance: float
    importance_error: float
    total: float
    best: Any
    low: float | None
    high: float | None
    choices: list[Any] | None
    open: bool
    words: str


@dataclass(frozen=True)
class RungInsight:
    """How well a rung tells the end.

    Attributes:
        iteration: of the rung.
        trials: how many have trained to their end.
        spearman, error: rank correlation of their scores at the rung with those at the end; its standard error.
    """

    iteration: int
    trials: int
    spearman: float
    error: float


@dataclass(frozen=True)
class Gain:
    """What more trials would bring, in units of the score.

    Attributes:
        trials: how many more.
        mean, error: expected gain in the best final value, and the standard deviation of what may come of it.
        noise: standard deviation between two trainings at the same values.
    """

    trials: int
    mean: float
    error: float
    noise: float

    @property
    def below_noise(self) -> bool:
        """Whether nobody would see it."""
        return self.mean < self.noise

    def __str__(self) -> str:
        return f"{self.trials} more trials would bring {self.mean:.2g} +- {self.error:.2g}; noise {self.noise:.2g}"


@dataclass(frozen=True)
class Insight:
    """What a study has learned; all of it plain types for JSON.

    Attributes:
        score: what the figures are of: the first metric, or what is climbed where that is flat.
        trials: with a score, stopped and running ones included.
        missing: why there is nothing to say, None if there is; then the rest is empty.
        keys: the most important first.
        rungs: ascending; empty where too few trials have trained to their end.
        advice: what the rungs mean for early stopping; empty without them.
        gain: of ten more trials.
        noise_source: where the noise comes from.
    """

    score: str
    trials: int
    missing: str | None = None
    keys: tuple[KeyInsight, ...] = ()
    rungs: tuple[RungInsight, ...] = ()
    advice: str = ""
    gain: Gain | None = None
    noise_source: str = ""

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Insight:
        """From `dataclasses.asdict`, by way of JSON."""
        gain = found["gain"]
        return cls(
            **{
                **found,
                "keys": tuple(KeyInsight(**key) for key in found["keys"]),
                "rungs": tuple(RungInsight(**rung) for rung in found["rungs"]),
                "gain": None if gain is None else Gain(**gain),
            }
        )

    def lines(self) -> list[str]:
        """In words, a line for each thing; empty where there is too little to tell."""
        if self.missing is not None or self.gain is None:
            return []
        said = [f"learned from {self.trials} trials, of the final {self.score}:"]
        said += [f"  {key.words}" for key in self.keys]
        said += [f"  {self.advice}"] if self.advice else []
        return [*said, f"  {self.gain} ({self.noise_source})"]


def learn(
    axes: Axes,
    curves: Sequence[Curve],
    fit: Callable[[Sequence[Curve]], Predicts],
    max_iter: int,
    *,
    score: str,
    rungs: Sequence[int] = (),
    method: str = "none",
    trained: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> Insight:
    """What these curves say; the same each time.

    Args:
        fit: makes a model of curves.
        max_iter: iterations of a whole training.
        rungs: iterations at which trials are or would be stopped.
        method: of early stopping.
        trained: values as they are trained, of values as they are drawn; see `SearchSpace.resolve`.
    """
    own = own_curves(curves)
    if len(own) < LEAST_CURVES:
        return Insight(score, len(own), missing=f"{len(own)} trials have a score, and {LEAST_CURVES} are needed")
    if len({curve.best for curve in own}) == 1:
        return Insight(score, len(own), missing=f"all {len(own)} trials have the same {score}")
    model = fit(most_telling(curves))
    ranks = tuple(rung_ranks(own, rungs, max_iter))
    return Insight(
        score=score,
        trials=len(own),
        keys=tuple(key_insights(axes, model, trained)),
        rungs=ranks,
        advice=advice_on_rungs(own, ranks, max_iter, method),
        gain=expected_gain(axes, own, model, max_iter),
        noise_source="of two trainings at the same values, from how the curves scatter about the model",
    )


def own_curves(curves: Sequence[Curve]) -> list[Curve]:
    """Those of this study that have a score and did not fail."""
    return [curve for curve in curves if not curve.task and curve.state != "failed" and curve.scores]


def most_telling(curves: Sequence[Curve]) -> list[Curve]:
    """At most MOST_CURVES of the study itself and half as many of earlier ones, so that a model takes a bounded time.

    Half are those that came furthest, the better ones first; the rest is spread evenly over the others, so that what
    is bad is known too. Failed trials are left out only where there are too many.
    """
    ours = _telling([curve for curve in curves if not curve.task], MOST_CURVES)
    return ours + _telling([curve for curve in curves if curve.task], MOST_CURVES // 2)


def _telling(curves: Sequence[Curve], most: int) -> list[Curve]:
    if len(curves) <= most:
        return list(curves)
    usable = [number for number, curve in enumerate(curves) if curve.scores and curve.state != "failed"]
    ranked = sorted(usable, key=lambda number: (-curves[number].last, -curves[number].best, number))
    others = sorted(ranked[most // 2 :])
    spread = {others[i * len(others) // (most - most // 2)] for i in range(most - most // 2)} if others else set()
    return [curves[number] for number in sorted({*ranked[: most // 2], *spread})]


# Importance and best regions


def key_insights(
    axes: Axes, model: Predicts, trained: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
) -> list[KeyInsight]:
    """Of each key, the most important first; the arguments are those of `learn`."""
    random = np.random.default_rng(0)
    places = _spread_places(random, PLACES, len(axes.keys))
    scores = model.draws([axes.values(place) for place in places], DRAWS, random)  # (DRAWS, PLACES)
    entries = list(axes.space.entries.values())
    bases = [_Basis(entry, places[:, k]) for k, entry in enumerate(entries)]
    effects = _effects(scores, bases)
    found = []
    for k, key in enumerate(axes.keys):
        main = effects[(k,)]
        region = _region(axes, k, bases[k], bases[k].shown(main.weights.mean(1)), model.noise, trained)
        importance, error = float(main.share.mean()), float(main.share.std())
        total = sum(float(effect.share.mean()) for keys, effect in effects.items() if k in keys)
        words = f"{key} explains {importance:.0%} +- {error:.0%}; {_region_words(region)}"
        found.append(KeyInsight(key, importance, error, min(total, 1.0), **region, words=words))
    return sorted(found, key=lambda key: -key.importance)


def _spread_places(random: np.random.Generator, count: int, keys: int) -> Floats:
    """(count, keys): a Latin hypercube, so that each key is covered evenly."""
    strata = np.stack([random.permutation(count) for _ in range(keys)], 1)
    return np.asarray((strata + random.random((count, keys))) / count)


class _Basis:
    """Functions of one key by which its effects are described, orthonormal over the places.

    Attributes:
        columns: (N, B) their values at the places; each has mean 0 and variance 1.
        paired: (N, P) those of which pairs of keys are made: of a range what is straight or bent once.
        grid: (G,) places along the key, at which an effect is shown.
    """

    def __init__(self, entry: Entry, places: Floats) -> None:
        self._parts, self._ordered = _parts(entry), not isinstance(entry, Categorical)
        self.grid = (np.arange(self._parts) + 0.5) / self._parts if self._parts else np.linspace(0.0, 1.0, STEPS)
        raw = self._raw(places)
        self._mean = raw.mean(0)
        orthogonal, self._triangle = np.linalg.qr(raw - self._mean)
        self.columns = orthogonal * math.sqrt(len(places))
        self._scale = math.sqrt(len(places))
        self.paired = self.columns[:, :2] if self._ordered else self.columns

    def _raw(self, places: Floats) -> Floats:
        if not self._parts:
            return np.asarray(legvander(2 * places - 1, DEGREE)[:, 1:], np.float64)  # without the constant
        part = np.minimum((places * self._parts).astype(int), self._parts - 1)
        return np.asarray(legvander(2 * part / (self._parts - 1) - 1, self._parts - 1)[:, 1:], np.float64)

    def shown(self, weights: Floats) -> Floats:
        """(G,): the sum of the functions with these weights (B,), along the grid."""
        along = np.linalg.solve(self._triangle.T, (self._raw(self.grid) - self._mean).T)  # (B, G)
        return np.asarray(weights @ along * self._scale)


def _parts(entry: Entry) -> int:
    """How many values a key has, where they are few; else 0."""
    if isinstance(entry, Categorical):
        return len(entry.choices)
    few = isinstance(entry, IntRange) and not entry.is_log and (entry.high - entry.low) // entry.step < FEW_VALUES
    return (entry.high - entry.low) // entry.step + 1 if few and isinstance(entry, IntRange) else 0


@dataclass(frozen=True)
class _Effect:
    """What one key explains alone, or two as a pair.

    Attributes:
        share: (D,) of the variance of each draw.
        weights: (B, D) of the functions that describe it.
    """

    share: Floats
    weights: Floats


def _effects(scores: Floats, bases: Sequence[_Basis]) -> dict[tuple[int, ...], _Effect]:
    """The effects of the keys and of their pairs, by their numbers, on each draw of scores (D, N).

    Of the variance that functions explain, what they would explain of noise is subtracted.
    """
    N = scores.shape[1]
    groups: dict[tuple[int, ...], Floats] = {(k,): basis.columns for k, basis in enumerate(bases)}
    pairs: dict[tuple[int, ...], Floats] = {
        (a, b): np.column_stack([one * other for one in bases[a].paired.T for other in bases[b].paired.T])
        for a, b in itertools.combinations(range(len(bases)), 2)
    }
    if sum(functions.shape[1] for functions in (*groups.values(), *pairs.values())) < N // 2:  # else too many
        groups |= pairs
    design = np.column_stack([np.ones(N), *groups.values()])
    weights = np.linalg.lstsq(design, scores.T, rcond=None)[0]  # (B, D)
    noise = ((scores.T - design @ weights) ** 2).sum(0) / (N - design.shape[1])
    found, first = {}, 1
    for keys, functions in groups.items():
        own = weights[first : first + functions.shape[1]]
        found[keys] = _Effect(np.maximum((functions @ own).var(0) - noise * len(own) / N, 0.0), np.asarray(own, float))
        first += len(own)
    whole = np.maximum(noise + sum(effect.share for effect in found.values()), 1e-12)
    return {keys: _Effect(np.asarray(effect.share / whole), effect.weights) for keys, effect in found.items()}


def _region(
    axes: Axes,
    k: int,
    basis: _Basis,
    effect: Floats,
    noise: float,
    trained: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> dict[str, Any]:
    """Where the effect (G,) of key number k is within the noise of its best; the fields of a `KeyInsight`."""
    key, entry = axes.keys[k], axes.space.entries[axes.keys[k]]
    good, top = effect >= effect.max() - noise, int(effect.argmax())
    if isinstance(entry, Categorical):
        choices = [choice for choice, is_good in zip(entry.choices, good, strict=True) if is_good]
        return {"best": entry.choices[top], "low": None, "high": None, "choices": choices, "open": bool(good.all())}
    first, last = top, top
    while first > 0 and good[first - 1]:
        first -= 1
    while last < len(good) - 1 and good[last + 1]:
        last += 1

    def value(step: int) -> Any:
        middle = {other: axes.value(other, 0.5) for other in axes.keys}
        return trained({**middle, key: axes.value(key, float(basis.grid[step]))})[key]

    whole = first == 0 and last == len(good) - 1
    return {"best": value(top), "low": value(first), "high": value(last), "choices": None, "open": whole}


def _region_words(region: Mapping[str, Any]) -> str:
    if region["open"]:
        return f"no value is better than the noise, best {_short(region['best'])}"
    if region["choices"] is not None:
        return f"best {' or '.join(map(_short, region['choices']))}"
    low, high = _short(region["low"]), _short(region["high"])
    return f"best {low}" if low == high else f"best {low} to {high}"


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


# Rungs against the end


def rung_ranks(curves: Sequence[Curve], rungs: Sequence[int], max_iter: int) -> list[RungInsight]:
    """How each rung ranks the trials that have trained to their end, if these are LEAST_WHOLE or more."""
    whole = [curve for curve in curves if curve.last >= max_iter]
    if len(whole) < LEAST_WHOLE:
        return []
    ends = [curve.best for curve in whole]
    found = []
    for rung in rungs:
        rho = spearman([_best_at(curve, rung) for curve in whole], ends)
        error = math.sqrt((1 + rho**2 / 2) / max(1, len(whole) - 3)) * (1 - rho**2)  # of Fisher's z, carried back
        found.append(RungInsight(rung, len(whole), rho, error))
    return found


def _best_at(curve: Curve, rung: int) -> float:
    """The best score up to the first report at or after a rung."""
    report = min((step for step in curve.scores if step >= rung), default=curve.last)
    return max(score for step, score in curve.scores.items() if step <= report)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Rank correlation, -1 to 1; of equal scores the mean rank. 0 where all are equal.

    By hand: scipy.stats takes a second to import.
    """
    a, b = _ranks(one), _ranks(other)
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread else 0.0


def _ranks(scores: Sequence[float]) -> Floats:
    _, place, count = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(count) - (count - 1) / 2)[place])


def advice_on_rungs(curves: Sequence[Curve], ranks: Sequence[RungInsight], max_iter: int, method: str) -> str:
    """What the first rung's rank correlation means for early stopping; empty where there is none."""
    if not ranks:
        return ""
    first = ranks[0]
    figure = f"Spearman {first.spearman:.2f} +- {first.error:.2f} of {first.trials} whole trainings"
    what = f"at {first.iteration} of {max_iter} iterations trials rank"
    if first.spearman >= RANKS_ALIKE:
        gains = "; a new study saves much with --early-stopping promotion" if method == "none" else ""
        return f"{what} like at the end ({figure}): the short budget ranks like the long one{gains}"
    if first.spearman >= RANKS_APART:
        return f"{what} much like at the end ({figure})"
    whole = [curve for curve in curves if curve.last >= max_iter]
    steps = sorted(set.intersection(*(set(curve.scores) for curve in whole)))
    later = [rank.iteration for rank in rung_ranks(whole, steps, max_iter) if rank.spearman >= RANKS_ALIKE]
    if later and later[0] < max_iter:
        todo = f"--grace {later[0]}"
        todo = f"raise it in a new study: {todo}" if method != "none" else f"if you stop trials early, with {todo}"
    else:
        todo = "let the trials of a new study end: --early-stopping none"
    return f"{what} unlike at the end ({figure}): {todo}"


# What more trials would bring


def expected_gain(axes: Axes, curves: Sequence[Curve], model: Predicts, max_iter: int) -> Gain:
    """The expected gain of MORE trials over the best that is in hand.

    In hand is the trial with the best predicted end among those that have trained to it or still may; of stopped
    trials only their points are known, which may be tried again.

    Args:
        curves: the study's own that have a score; one at least.
    """
    random = np.random.default_rng(len(curves))
    means, _ = model.predict([curve.values for curve in curves])
    order = np.argsort(-means, kind="stable")
    able = [n for n in order if curves[n].feasible] or list(order)
    kept = [n for n in able if curves[n].last >= max_iter or curves[n].state == "running"] or able
    near = [axes.place(curves[n].values) for n in able[:3]]
    places = [
        *axes.draw(random, CANDIDATES // 3),
        *axes.draw_prior(random, CANDIDATES // 3),
        *(place for one in near for place in axes.draw_near(random, one, CANDIDATES // 9, 0.1)),
    ]
    points = [curves[kept[0]].values, *(curves[n].values for n in able[:MORE]), *map(axes.values, places)]
    draws = model.draws(points, GAIN_DRAWS, random)
    chosen = [0, *(1 + column for column in _chosen(np.maximum(draws[:, 1:] - draws[:, :1], 0.0)))]
    gains = _rises(draws[:, chosen], model.noise, random)
    return Gain(MORE, *(round(float(figure), 6) for figure in (gains.mean(), gains.std(), model.noise)))


def _rises(draws: Floats, noise: float, random: np.random.Generator) -> Floats:
    """(D,): by how much the best predicted mean rises, above that of the first, once the others are seen with noise.

    Args:
        draws: (D, 1 + C) of the first and of the others.
    """
    means, covariance = draws.mean(0), np.cov(draws.T)
    seen = covariance[1:, 1:] + (noise**2 + 1e-12) * np.eye(len(means) - 1)
    moves = np.linalg.solve(seen, covariance[1:]).T  # (1 + C, C): of each mean by each difference that is seen
    differences = draws[:, 1:] + random.normal(0.0, noise, draws[:, 1:].shape) - means[1:]
    after = means + differences @ moves.T
    return np.asarray(np.maximum(after.max(1), after[:, 0]) - after[:, 0])


def _chosen(rises: Floats) -> list[int]:
    """MORE of the columns, greedily: each raises the mean over the rows of the best of them most."""
    found: list[int] = []
    best = np.zeros(len(rises))
    for _ in range(MORE):
        found.append(int(np.maximum(rises, best[:, None]).mean(0).argmax()))
        best = np.maximum(best, rises[:, found[-1]])
    return found
