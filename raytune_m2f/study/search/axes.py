"""A search space as a unit cube, and what is believed of it before anything is known.

A *place* is a point of the cube, one coordinate for each key, in the order of the space: of a range its share, on a
logarithmic scale where the range has one, of a choice the middle of its part. *Features* are what a model compares:
the same, but each choice has a column of its own (unless the choices are numbers in their order, which share one,
evenly spaced), and of keys of type `share` only their balance counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.space.entries import Categorical, Entry, FloatRange, IntRange, Prior

Floats = NDArray[np.float64]

CONFIDENCE = {"low": 0.5, "medium": 0.22, "high": 0.12}
"""How far from its centre a value is believed to lie, as a share of its range (one standard deviation)."""
LEFT_OPEN = ("SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH")
"""Of these little is believed: what suits them is another thing for each data set and machine."""
SUPPOSED = 0.1
"""Weight of a prior that nobody has stated. It shows where to begin; that it is right is not known (with a weight of 1
the replayed studies of synthetic shapes, whose configuration has a far too low learning rate, lose 1 AP)."""
CHOICES_APART = 0.5
"""How far two choices lie from each other in the features."""


@dataclass(frozen=True)
class Axes:
    """The cube of a space.

    Attributes:
        space: the search space.
        center: (K,) the place that is believed in: by default the configuration's own values, or what lies nearest.
        spread: (K,) how far from it the best place may lie; one standard deviation.
        weight: (K,) how much that counts: 1 where the space file states a prior, SUPPOSED where nobody said anything.
    """

    space: SearchSpace
    center: Floats
    spread: Floats
    weight: Floats

    @classmethod
    def of(cls, space: SearchSpace, own: Mapping[str, Any]) -> Axes:
        """The axes of a space around a configuration's `own` values."""
        K = len(space.entries)
        center, spread, weight = np.full(K, 0.5), np.empty(K), np.empty(K)
        for number, (key, entry) in enumerate(space.entries.items()):
            prior = entry.prior or Prior()
            value = own.get(key) if prior.center == "config" else prior.center
            if value is not None:
                center[number] = min(max(_share(entry, value), 0.0), 1.0)
            spread[number] = CONFIDENCE[prior.confidence or ("low" if key in LEFT_OPEN else "medium")]
            weight[number] = 1.0 if entry.prior else SUPPOSED
        return cls(space, center, spread, weight)

    @property
    def keys(self) -> list[str]:
        """The K keys."""
        return list(self.space.entries)

    def place(self, values: Mapping[str, Any]) -> Floats:
        """(K,): where values lie; a key that a trial does not have lies at the centre."""
        found: Floats = self.center.copy()
        for number, (key, entry) in enumerate(self.space.entries.items()):
            if key in values:
                found[number] = min(max(_share(entry, values[key]), 0.0), 1.0)
        return found

    def values(self, place: Floats) -> dict[str, Any]:
        """The values at a place; those of keys whose condition is not met are left out."""
        entries = self.space.entries.items()
        return self.space.active({k: _value(e, float(u)) for (k, e), u in zip(entries, place, strict=True)})

    def value(self, key: str, share: float) -> Any:
        """The value of a key at this share of its range, 0 to 1."""
        return _value(self.space.entries[key], share)

    def features(self, points: Sequence[Mapping[str, Any]]) -> Floats:
        """(N, D): what a model compares of these values; see `groups`."""
        shares = [key for key in self.keys if key in self.space.shares]
        rows = []
        for values in points:
            place = dict(zip(self.keys, self.place(values), strict=True))
            balance = sum(math.log(values[key]) for key in shares if key in values) / max(1, len(shares))
            row: list[float] = []
            for key, entry in self.space.entries.items():
                if choices := _unordered(entry):
                    row += [CHOICES_APART * (values.get(key) == choice) for choice in choices]
                elif isinstance(entry, FloatRange) and key in shares and key in values:
                    row.append((math.log(values[key]) - balance) / math.log(entry.high / entry.low))
                else:
                    row.append(place[key])
            rows.append(row)
        return np.array(rows, np.float64).reshape(len(points), sum(map(len, self.groups.values())))

    @property
    def groups(self) -> dict[str, list[int]]:
        """The columns of the features that are each key's."""
        found: dict[str, list[int]] = {}
        column = 0
        for key, entry in self.space.entries.items():
            width = len(_unordered(entry)) or 1
            found[key] = list(range(column, column + width))
            column += width
        return found

    def log_prior(self, places: Floats) -> Floats:
        """(N,): the logarithm of what is believed of places (N, K), up to a constant."""
        return np.asarray(-0.5 * (((places - self.center) / self.spread) ** 2 @ self.weight))

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """(count, K) places, drawn alike from all of the cube."""
        return random.random((count, len(self.center)))

    def draw_prior(self, random: np.random.Generator, count: int) -> Floats:
        """(count, K) places as they are believed in; what falls outside the cube lies on its border."""
        return np.clip(random.normal(self.center, self.spread, (count, len(self.center))), 0.0, 1.0)

    def draw_near(self, random: np.random.Generator, place: Floats, count: int, spread: float) -> Floats:
        """(count, K) places near one, in some of the keys; each differs in one at least."""
        K = len(self.center)
        moved = random.random((count, K)) < max(0.5, 1.0 / K)
        moved[np.arange(count), random.integers(0, K, count)] = True
        return np.clip(np.where(moved, random.normal(place, spread, (count, K)), place), 0.0, 1.0)


def _unordered(entry: Entry) -> Sequence[Any]:
    """The choices that have a column each, as none is nearer to one of the others; none: the key has one column."""
    return entry.choices if isinstance(entry, Categorical) and not entry.is_ordered else ()


def _share(entry: Entry, value: Any) -> float:
    """Where a value lies in its range."""
    if isinstance(entry, Categorical):
        return (entry.choices.index(value) + 0.5) / len(entry.choices) if value in entry.choices else 0.5
    low, high = _ends(entry)
    if entry.is_log:
        return math.log(max(float(value), 1e-300) / low) / math.log(high / low)
    return (float(value) - low) / (high - low)


def _value(entry: Entry, share: float) -> Any:
    """The value at this share of a range."""
    if isinstance(entry, Categorical):
        return entry.choices[min(int(share * len(entry.choices)), len(entry.choices) - 1)]
    low, high = _ends(entry)
    found = low * (high / low) ** share if entry.is_log else low + share * (high - low)
    if isinstance(entry, IntRange):
        stepped = entry.low + entry.step * round((found - entry.low) / entry.step)
        return min(max(stepped, entry.low), entry.high)
    return min(max(found, entry.low), entry.high)


def _ends(entry: Any) -> tuple[float, float]:
    """The ends of a range; of whole numbers half a step further, so that each has the same room."""
    half = entry.step / 2 if isinstance(entry, IntRange) else 0.0
    return entry.low - half, entry.high + half
