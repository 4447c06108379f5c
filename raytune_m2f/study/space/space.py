"""A search space: which keys of the configuration Optuna may change, and within what range.

The sum of the loss weights acts as the learning rate does (with AdamW, which divides by the size of the gradient,
hardly at all). Searching it beside the learning rate wastes trials: many points are the same training. Of keys of type
`share` Optuna therefore draws raw weights, and the trial's configuration gets them scaled to the sum of the
configuration's own values: what is searched is their balance.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from raytune_m2f.config import Config
from raytune_m2f.errors import SearchSpaceError, did_you_mean, join_problems
from raytune_m2f.study.space.entries import Categorical, Entry, IntRange, read_entry

ROUNDING = 1e-9
LARGEST_GRID = 10_000
"""Points that a grid may have: more is a mistake in the file, not an ablation."""


@dataclass(frozen=True)
class SearchSpace:
    """What may vary between the trials of a study.

    Attributes:
        source: the file or name that an error message gives.
        entries: what may vary in each dotted key, in the order of the file.
    """

    source: str
    entries: dict[str, Entry]

    @classmethod
    def from_dict(cls, lines: Mapping[Any, Any], source: str = "search space") -> SearchSpace:
        """A search space from `{key: {type: ..., ...}}`, checked by itself.

        Raises:
            SearchSpaceError: naming every key whose entry is wrong, what was got and what is allowed.
        """
        if not lines:
            raise SearchSpaceError(
                f"{source}: the search space is empty; "
                "add a line such as SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}"
            )
        entries: dict[str, Entry] = {}
        problems: list[str] = []
        for key, line in lines.items():
            try:
                entries[str(key)] = read_entry(line)
            except ValueError as problem:
                problems.append(f"{key}: {problem}")
        space = cls(source, entries)
        if problems := problems or list(space._problems()):
            raise SearchSpaceError(join_problems([f"{source}: {problem}" for problem in problems]))
        return space

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """What `from_dict` reads; plain types, for study.yaml."""
        return {key: entry.model_dump(mode="json", exclude_defaults=True) for key, entry in self.entries.items()}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each key."""
        return {key: entry.distribution for key, entry in self.entries.items()}

    def span(self, key: str, config: Config) -> tuple[float, float]:
        """The smallest and the largest value of a key in a trial; where a trial may lack it, the configuration's own
        too. Choices that are no numbers are left out."""
        found: list[float] = [] if key in self.entries and key not in self.conditional else [config.value(key)]
        distribution = self.distributions.get(key)
        if isinstance(distribution, IntDistribution | FloatDistribution):
            found += [distribution.low, distribution.high]
        elif isinstance(distribution, CategoricalDistribution):
            found += [choice for choice in distribution.choices if isinstance(choice, int | float)]
        return float(min(found)), float(max(found))

    @property
    def conditional(self) -> frozenset[str]:
        """The keys that not every trial has."""
        return frozenset(key for key, entry in self.entries.items() if entry.when)

    @property
    def shares(self) -> list[str]:
        """The keys that have their share of a sum."""
        return [key for key, entry in self.entries.items() if entry.type == "share"]

    @cached_property
    def parents_first(self) -> tuple[str, ...]:
        """The keys, each after those that its condition names; without conditions in the order of the file."""
        parents = {key: [one for one in entry.when if one in self.entries] for key, entry in self.entries.items()}
        return tuple(TopologicalSorter(parents).static_order())

    def is_active(self, key: str, values: Mapping[str, Any]) -> bool:
        """Whether a trial with these values of the other keys has this key."""
        return all(values.get(parent) in allowed for parent, allowed in self.entries[key].when.items())

    def active(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the values that a trial would have, parents first: without the keys whose condition is not met."""
        kept: dict[str, Any] = {}
        for key in self.parents_first:
            if key in values and self.is_active(key, kept):
                kept[key] = values[key]
        return kept

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value for each key whose condition is met, parents first.

        A value that the trial already has is kept, so that a half-asked trial can be completed.
        """
        values: dict[str, Any] = {}
        for key in self.parents_first:
            if self.is_active(key, values):
                values[key] = _suggest(trial, key, self.entries[key])
        return values

    def own_values(self, config: Config) -> dict[str, Any]:
        """The configuration's own values of the searched keys: a point known to be good, tried first."""
        return self.active({key: config.value(key) for key in self.entries})

    def contains(self, values: Mapping[str, Any]) -> list[str]:
        """The keys that a trial with these values would not have, or whose value lies outside its range."""
        kept = self.active(values)
        return [key for key, value in values.items() if key not in kept or not self.entries[key].contains(value)]

    def resolve(self, params: Mapping[str, Any], config: Config) -> dict[str, Any]:
        """The values for the configuration of a trial: its params, with shares scaled to the sum that `config` has.

        The configuration's own values resolve to themselves.
        """
        shares = [key for key in params if key in self.shares]
        if not shares:
            return dict(params)
        scale = sum(config.value(key) for key in shares) / sum(params[key] for key in shares)
        return {key: value * scale if key in shares else value for key, value in params.items()}

    def weights(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The raw weights within their ranges that have the balance of these values; other keys as they are.

        They are the values themselves where these lie within their ranges, else at the nearest scale. If no scale suits
        all ranges, nothing is changed: the values lie outside the space.
        """
        shares = {key: entry for key, entry in self.entries.items() if entry.type == "share" and key in values}
        if not shares or any(not isinstance(values[key], int | float) or values[key] <= 0 for key in shares):
            return dict(values)
        least = max(found.low / values[key] for key, found in shares.items())
        most = min(found.high / values[key] for key, found in shares.items())
        if least > most * (1 + ROUNDING):
            return dict(values)
        scale = min(max(1.0, least), most)
        weights = {key: min(max(values[key] * scale, found.low), found.high) for key, found in shares.items()}
        return {**values, **weights}

    def _problems(self) -> Iterator[str]:
        """A line for every condition that cannot be met, for the first circle of them, and for a share of nothing."""
        for key, entry in self.entries.items():
            for parent, values in entry.when.items():
                if problem := self._condition_problem(parent, values):
                    yield f"{key}: when: {problem}"
        try:
            _ = self.parents_first
        except CycleError as error:
            circle = error.args[1][::-1]
            yield f"{circle[0]}: when: a circle: {' -> '.join(circle)}; let one of them be searched always"
        if len(self.shares) == 1:
            yield (
                f"{self.shares[0]}: the only key of type share, so that its value would never change; give the type to "
                "two keys or more, or write type: loguniform"
            )

    def _condition_problem(self, parent: str, values: tuple[Any, ...]) -> str:
        """Why a key cannot be searched with these values of another; empty if it can."""
        choices = {key: entry.choices for key, entry in self.entries.items() if isinstance(entry, Categorical)}
        if parent not in choices:
            why = "is no categorical key" if parent in self.entries else "is not searched"
            allowed = ", ".join(choices) or "a key of type categorical; there is none"
            return f"got {parent}, which {why}; allowed: {allowed}{did_you_mean(parent, choices)}"
        for value in values:
            if value not in choices[parent]:
                allowed = ", ".join(map(str, choices[parent]))
                return f"got {parent} {value!r}, allowed: {allowed}{did_you_mean(value, choices[parent])}"
        return ""


def _suggest(trial: Trial, key: str, entry: Entry) -> Any:
    if isinstance(entry, Categorical):
        return trial.suggest_categorical(key, entry.choices)
    if isinstance(entry, IntRange):
        return trial.suggest_int(key, entry.low, entry.high, step=entry.step, log=entry.log)
    return trial.suggest_float(key, entry.low, entry.high, log=entry.is_log)


def grid(space: SearchSpace) -> list[dict[str, Any]]:
    """Every combination of values (`--sampler grid`), the last key changing fastest.

    A conditional key is combined only where it is searched.

    Of several points with the same balance of their share keys, which would be the same training, the first is kept.

    Raises:
        SearchSpaceError: naming each range without steps that does not say how many `points` to take; or there are
            more than LARGEST_GRID points.
    """
    values = {key: _values(space.entries[key]) for key in space.parents_first}
    if problems := [
        f"{space.source}: {key}: a grid cannot take every value of this range; add how many it takes, such as points: 5"
        for key in space.entries
        if not values[key]
    ]:
        raise SearchSpaceError(join_problems(problems))
    points = list(itertools.islice(_combinations(space, values, {}), LARGEST_GRID + 1))
    if len(points) > LARGEST_GRID:
        counts = " x ".join(f"{key} {len(of_key)}" for key, of_key in values.items())
        raise SearchSpaceError(
            f"{space.source}: a grid of more than {LARGEST_GRID} points ({counts}), allowed: up to {LARGEST_GRID}; "
            "give fewer points or larger steps, or take another sampler"
        )
    return list({_balance(space, point): point for point in reversed(points)}.values())[::-1]


def _values(entry: Entry) -> Sequence[Any]:
    """As in the file, or ascending and rounded to 12 digits, so that 1e-4 is 0.0001; empty: there is no end of them."""
    if isinstance(entry, Categorical):
        return entry.choices
    if isinstance(entry, IntRange) and not entry.log:
        return range(entry.low, entry.high + 1, entry.step)
    if not entry.points:
        return ()
    spaced = (np.geomspace if entry.is_log else np.linspace)(entry.low, entry.high, entry.points)
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
