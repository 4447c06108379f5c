"""All combinations of a search space, tried in a fixed order: an ablation (`--sampler grid`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_m2f.config.build import in_one_message
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.space.entries import Entry, is_met, parents_first

MOST = 10_000
"""Points that a grid may have: more is a mistake in the file, not an ablation."""


def grid(space: SearchSpace) -> list[dict[str, Any]]:
    """Every combination of values, the last key changing fastest; a conditional key only where it is searched.

    Of several points with the same balance of their share keys, which would be the same training, the first is kept.

    Raises:
        SearchSpaceError: naming each range without steps that does not say how many `points` to take; or there are
            more than MOST points.
    """
    if problems := [f"{space.source}: {key}: {text}" for key, e in space.entries.items() if (text := _problem(e))]:
        raise SearchSpaceError(in_one_message(problems))
    values = {key: _values(space.entries[key]) for key in parents_first(space.entries)}
    points = list(itertools.islice(_combinations(space, values, {}), MOST + 1))
    if len(points) > MOST:
        counts = " x ".join(f"{key} {len(of_key)}" for key, of_key in values.items())
        raise SearchSpaceError(
            f"{space.source}: a grid of more than {MOST} points ({counts}), allowed: up to {MOST}; give fewer points "
            "or larger steps, or take another sampler"
        )
    return list({_balance(space, point): point for point in reversed(points)}.values())[::-1]


def _problem(entry: Entry) -> str:
    distribution = entry.distribution
    stepped = isinstance(distribution, IntDistribution) and not distribution.log
    if stepped or isinstance(distribution, CategoricalDistribution) or entry.points:
        return ""
    return "a grid cannot take every value of this range; add how many it takes, such as points: 5"


def _values(entry: Entry) -> list[Any]:
    """In ascending order or in that of the file; rounded to 12 digits, so that 1e-4 is 0.0001."""
    distribution = entry.distribution
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if entry.points is None:
        return list(range(int(low), int(high) + 1, int(distribution.step or 1)))
    spaced = np.geomspace if distribution.log else np.linspace
    between = [float(f"{value:.12g}") for value in spaced(low, high, entry.points)[1:-1]]
    if isinstance(distribution, IntDistribution):
        return sorted({low, *map(round, between), high})
    return [low, *between, high]


def _combinations(
    space: SearchSpace, values: Mapping[str, list[Any]], chosen: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All completions of `chosen` by the keys of `values`."""
    if not values:
        yield chosen
        return
    (key, of_key), *rest = values.items()
    if not is_met(space.entries[key], chosen):
        of_key = [None]
    for value in of_key:
        yield from _combinations(space, dict(rest), chosen if value is None else {**chosen, key: value})


def _balance(space: SearchSpace, point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The point, with its shares as parts of 1: equal for points that are the same training."""
    total = sum(value for key, value in point.items() if space.entries[key].share)
    return tuple((key, round(value / total, 9) if space.entries[key].share else value) for key, value in point.items())
