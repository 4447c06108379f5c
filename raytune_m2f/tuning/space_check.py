"""Whether every trial drawn from a search space would have a valid configuration: asked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytune_m2f.config import Config, known_keys
from raytune_m2f.errors import ConfigError

NOT_TUNABLE: dict[str, str] = {
    "DATASETS": "trials on different data could not be compared",
    "TEST": "trials evaluated in different ways could not be compared",
    "SOLVER.MAX_ITER": "trials of different length could not be compared; the scheduler stops the poor ones early",
    "ENGINE": "a study never mixes engines",
    "VERSION": "it is the version of the file format",
    "SOLVER.CHECKPOINT_PERIOD": "it changes no result",
    "SOLVER.MICRO_BATCH": "it changes memory and speed, not the result; search SOLVER.IMS_PER_BATCH",
    "DATALOADER.NUM_WORKERS": "it changes speed, not the result",
    "MODEL.WEIGHTS": "other weights are another experiment: make a study for each",
    "MODEL.META_ARCHITECTURE": "its values name the same network",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "the annotations decide it",
}
"""Keys, with all below them, that a study cannot vary, and why."""

GRID = 100
"""Whole numbers of a range that are tried one by one; a rule such as "divisible by 8" shows within these."""


def find_problems(distributions: Mapping[str, BaseDistribution], config: Config, source: str) -> list[str]:
    """A line for every key that cannot be searched, and for every value or pair that is no valid configuration.

    Args:
        distributions: Optuna's distribution of each dotted key.
        config: the configuration that the trials start from.
        source: what a line calls the search space.
    """
    problems = [f"{source}: {key}: {text}" for key in distributions if (text := _key_problem(key, config))]
    if problems:
        return problems
    first: dict[str, str] = {}  # one line for each key: that 66 and 67 are wrong too says no more than 65
    for values in _trials({key: _points(distribution) for key, distribution in distributions.items()}):
        for line in config.problems(values, source):
            first.setdefault(line.removeprefix(f"{source}: ").partition(":")[0], line)
    return list(first.values())


def _trials(points: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """Values of all keys: each point of each key, then each pair of ends, which may clash where neither does alone."""
    start = {key: values[0] for key, values in points.items()}
    for key, values in points.items():
        yield from ({**start, key: value} for value in values)
    for one, other in itertools.combinations(points, 2):
        for pair in itertools.product(points[one][:ENDS], points[other][:ENDS]):
            yield {**start, one: pair[0], other: pair[1]}


def _key_problem(key: str, config: Config) -> str:
    """Why a key cannot be searched; empty if it can."""
    try:
        value = config.value(key)
    except ConfigError as problem:
        return str(problem).removeprefix(f"{key}: ")
    for prefix, why in NOT_TUNABLE.items():
        if f"{key}.".startswith(f"{prefix}."):
            return f"cannot be tuned: {why}"
    if not isinstance(value, bool | int | float | str):
        return "cannot be tuned: its value is a list, and Optuna draws numbers, text, true or false"
    return ""


def _points(distribution: BaseDistribution) -> list[Any]:
    """Values that stand for the whole range: its two ends first, then those between that a rule may forbid."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    ends: list[Any] = [distribution.low, distribution.high]
    if isinstance(distribution, FloatDistribution):
        return ends
    return [*ends, *range(distribution.low, distribution.high, distribution.step)[1:GRID]]
