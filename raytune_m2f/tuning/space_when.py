"""Keys that are searched only where another key has a certain value: `when: {PARENT.KEY: value or [values]}`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from optuna.distributions import CategoricalDistribution

from raytune_m2f.tuning.space_entry import Entry, meant


def when_problems(entries: Mapping[str, Entry]) -> Iterator[str]:
    """A line, `KEY: when: ...`, for every condition that cannot be met, and for the first circle of conditions."""
    for key, entry in entries.items():
        for parent, values in entry.when.items():
            if text := _problem(parent, values, entries):
                yield f"{key}: when: {text}"
    try:
        parents_first(entries)
    except CycleError as error:
        circle = error.args[1][::-1]
        yield f"{circle[0]}: when: a circle: {' -> '.join(circle)}; let one of them be searched always"


def parents_first(entries: Mapping[str, Entry]) -> list[str]:
    """The keys, each after those that it depends on; without conditions in the order of the file."""
    parents = {key: [parent for parent in entry.when if parent in entries] for key, entry in entries.items()}
    return list(TopologicalSorter(parents).static_order())


def is_met(entry: Entry, values: Mapping[str, Any]) -> bool:
    """Whether the entry's key is searched in a trial with these values; they have its parents if those are searched."""
    return all(parent in values and values[parent] in allowed for parent, allowed in entry.when.items())


def active(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that a trial would have, parents first: without the keys whose condition is not met."""
    kept: dict[str, Any] = {}
    for key in parents_first(entries):
        if key in values and is_met(entries[key], kept):
            kept[key] = values[key]
    return kept


def that_meet(entries: Mapping[str, Entry], key: str) -> dict[str, Any]:
    """Values of other keys with which this one is searched: of each the first that is allowed."""
    values: dict[str, Any] = {}
    for parent, allowed in entries[key].when.items():
        if parent in entries:
            values |= {**that_meet(entries, parent), parent: allowed[0]}
    return values


def _problem(parent: str, values: tuple[Any, ...], entries: Mapping[str, Entry]) -> str:
    choosable = [key for key, entry in entries.items() if isinstance(entry.distribution, CategoricalDistribution)]
    if parent not in choosable:
        why = "is no categorical key" if parent in entries else "is not searched"
        allowed = (
            f"allowed: {', '.join(choosable)}" if choosable else "allowed: a key of type categorical; there is none"
        )
        return f"got {parent}, which {why}; {allowed}{meant(parent, choosable)}"
    distribution = entries[parent].distribution
    assert isinstance(distribution, CategoricalDistribution)
    for value in values:
        if value not in distribution.choices:
            allowed = ", ".join(map(str, distribution.choices))
            return f"got {parent} {value!r}, allowed: {allowed}{meant(value, distribution.choices)}"
    return ""
