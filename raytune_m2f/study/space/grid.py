"""All combinations of a search space, tried in a fixed order: an ablation (`--sampler grid`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from raytune_m2f.errors import SearchSpaceError, join_problems
from raytune_m2f.study.space.entries import Categorical, Entry, IntRange
from raytune_m2f.study.space.space import SearchSpace

MOST = 10_000
"""Points that a grid may have: more is a mistake in the file, not an ablation."""


def grid(space: SearchSpace) -> list[dict[str, Any]]:
    """Every combination of values, the last key changing fastest; a conditional key only where it is searched.

    Of several points with the same balance of their share keys, which would be the same training, the first is kept.

    Raises:
        SearchSpaceError: naming each range without steps that does not say how many `points` to take; or there are
            more than MOST points.
    """
    values = {key: _values(space.entries[key]) for key in space.parents_first()}
    if problems := [
        f"{space.source}: {key}: a grid cannot take every value of this range; add how many it takes, such as points: 5"
        for key in space.entries
        if not values[key]
    ]:
        raise SearchSpaceError(join_problems(problems))
    points = list(itertools.islice(_combinations(space, values, {}), MOST + 1))
    if len(points) > MOST:
        counts = " x ".join(f"{key} {len(of_key)}" for key, of_key in values.items())
        raise SearchSpaceError(
            f"{space.source}: a grid of more than {MOST} points ({counts}), allowed: up to {MOST}; give fewer points "
            "or larger steps, or take another sampler"
        )
    return list({_balance(space, point): point for point in reversed(points)}.values())[::-1]


def _values(entry: Entry) -> Sequence[Any]:
    """As in the file, or ascending and rounded to 12 digits, so that 1e-4 is 0.0001; empty: there is no end of them."""
    if isinstance(entry, Categorical):
        return entry.choices
    log = entry.distribution.log
    if isinstance(entry, IntRange) and not log:
        return range(entry.low, entry.high + 1, entry.step)
    if not entry.points:
        return ()
    spaced = (np.geomspace if log else np.linspace)(entry.low, entry.high, entry.points)
    if isinstance(entry, IntRange):
        return sorted({round(value) for value in spaced})
    return [entry.low, *(float(f"{value:.12g}") for value in spaced[1:-1]), entry.high]


def _combinations(
    space: SearchSpace, values: Mapping[str, Sequence[Any]], chosen: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All completions of `chosen` by the keys of `values`."""
    if not values:
        yield chosen
        return
    (key, of_key), *rest = values.items()
    for more in [{key: value} for value in of_key] if space.is_active(key, chosen) else [{}]:
        yield from _combinations(space, dict(rest), {**chosen, **more})


def _balance(space: SearchSpace, point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The point, with its shares as parts of 1: equal for points that are the same training."""
    total = sum(point[key] for key in space.shares if key in point)
    return tuple((key, round(value / total, 9) if key in space.shares else value) for key, value in point.items())
