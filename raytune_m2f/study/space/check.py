"""Whether every trial drawn from a search space would have a valid configuration: asked before anything runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytune_m2f.config import Config
from raytune_m2f.errors import ConfigError, SearchSpaceError
from raytune_m2f.study.space.entries import Entry, active, resolve, that_meet

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
    "MODEL.ROI_HEADS.NUM_CLASSES": "the annotations decide it",
    "MODEL.RETINANET.NUM_CLASSES": "the annotations decide it",
}
"""Keys, with all below them, that a study cannot vary, and why."""

GRID = 100
"""How many whole numbers of a range are tried one by one."""


def find_problems(entries: Mapping[str, Entry], config: Config, source: str) -> list[str]:
    """A line for every key that cannot be searched, and for every value or pair that is no valid configuration.

    Args:
        entries: what may vary in each dotted key.
        config: the configuration that the trials start from.
        source: what a line calls the search space.
    """
    refused = {
        key: f"{source}: {key}: {text}" for key, entry in entries.items() if (text := _key_problem(key, entry, config))
    }
    searched = {key: entry for key, entry in entries.items() if key not in refused}
    first: dict[str, str] = {}  # one line for each key: that 66 and 67 are wrong too says no more than 65
    for values in _trials(searched):
        for line in config.problems(resolve(searched, values, config), source):
            first.setdefault(line.removeprefix(f"{source}: ").partition(":")[0], line)
    return [*refused.values(), *first.values()]


def refuse_fixed(values: Mapping[str, Any], source: str) -> None:
    """Refuse values that no search space may have; a stored study's are not checked again by anything else.

    Raises:
        SearchSpaceError: naming the first.
    """
    for key in values:
        if why := _why_fixed(key):
            raise SearchSpaceError(f"{source}: {key}: cannot be tuned: {why}")


def _why_fixed(key: str) -> str:
    return next((why for prefix, why in NOT_TUNABLE.items() if f"{key}.".startswith(f"{prefix}.")), "")


def _trials(entries: Mapping[str, Entry]) -> Iterator[dict[str, Any]]:
    """Values as a trial can have them: each point of each key, then each pair of ends, which may clash where neither
    does alone. What a conditional key needs is set for it."""
    ends = {key: _ends(entry.distribution) for key, entry in entries.items()}
    needed = {key: that_meet(entries, key) for key in entries}
    start = {key: values[0] for key, values in ends.items()}
    for key, entry in entries.items():
        for value in (*ends[key], *_between(entry.distribution)):
            yield active(entries, {**start, **needed[key], key: value})
    for one, other in itertools.combinations(ends, 2):
        settings = [needed[one] | needed[other], needed[other] | needed[one]]
        for setting in settings[: 1 + (settings[0] != settings[1])]:
            for a, b in itertools.product(ends[one], ends[other]):
                yield active(entries, {**start, **setting, one: a, other: b})


def _key_problem(key: str, entry: Entry, config: Config) -> str:
    """Why a key cannot be searched; empty if it can."""
    try:
        value = config.value(key)
    except ConfigError as problem:
        return str(problem).removeprefix(f"{key}: ")
    if why := _why_fixed(key):
        return f"cannot be tuned: {why}"
    if not isinstance(value, bool | int | float | str):
        return "cannot be tuned: its value is a list, and Optuna draws numbers, text, true or false"
    if entry.share and (isinstance(value, bool | str) or value <= 0):
        return f"the configuration's own value is {value!r}, allowed for a share: a number above 0"
    return ""


def _ends(distribution: BaseDistribution) -> list[Any]:
    """The lowest and the highest value, or every choice."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def _between(distribution: BaseDistribution) -> Sequence[int]:
    """The first whole numbers after the low end: a rule such as "divisible by 8" shows within them."""
    if not isinstance(distribution, IntDistribution):
        return ()
    return range(distribution.low, distribution.high, distribution.step)[1:GRID]
