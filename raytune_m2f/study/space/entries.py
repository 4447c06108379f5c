"""One line of a search space, `{type: ..., ...}`: Optuna's distribution, and what it does not know.

Keys that are searched only where another key has a certain value: `when: {PARENT.KEY: value or [values]}`.

Weights as shares of a sum, `{type: share, low: .., high: ..}`: what is searched is their balance.

The sum of the loss weights acts as the learning rate does (with AdamW, which divides by the size of the gradient,
hardly at all). Searching it beside the learning rate wastes trials: many points are the same training. Optuna draws
a raw weight for each share key; the trial's configuration gets them scaled to the sum of the configuration's own.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytune_m2f.config import Config
from raytune_m2f.config.fields.base import decode_number

FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "uniform": (("low", "high"), ("points", "when")),
    "loguniform": (("low", "high"), ("points", "when")),
    "int": (("low", "high"), ("step", "log", "points", "when")),
    "categorical": (("choices",), ("when",)),
    "share": (("low", "high"), ("points", "when")),
}
"""What each type of range needs, and what else it may have."""

EXAMPLES = {
    "uniform": "{type: uniform, low: 0.0, high: 1.0}",
    "loguniform": "{type: loguniform, low: 1.0e-5, high: 1.0e-3}",
    "int": "{type: int, low: 20, high: 300, step: 10}",
    "categorical": "{type: categorical, choices: [4, 8, 16]}",
    "share": "{type: share, low: 0.5, high: 10.0}",
}
WHEN_EXAMPLE = "when: {SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR}"


@dataclass(frozen=True)
class Entry:
    """What may vary in one key.

    Attributes:
        distribution: what Optuna draws from; of a share the raw weight.
        when: values of other keys; the key is left out of a trial unless each of them has one of its values.
        share: the key has its share of a sum; see `space_share.py`.
        points: how many values of the range a grid takes.
    """

    distribution: BaseDistribution
    when: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    share: bool = False
    points: int | None = None

    @classmethod
    def read(cls, line: Any) -> Entry:
        """Raises ValueError, saying what was got and what is allowed."""
        kind = _kind(line)
        distribution = _distribution(kind, line)
        points = _whole(line, "points") if "points" in line else None
        if points is not None and points < 2:
            raise ValueError(f"got points {points}, allowed: 2 or more")
        if points is not None and isinstance(distribution, IntDistribution) and not distribution.log:
            raise ValueError(
                f"got points {points}, allowed: only with log: true, for a grid takes every step; set step"
            )
        return cls(distribution, _when(line.get("when", {})), kind == "share", points)

    def to_dict(self) -> dict[str, Any]:
        """The line that `read` reads as this entry; plain types."""
        line = _line_of(self.distribution)
        if self.share:
            line["type"] = "share"
        if self.points is not None:
            line["points"] = self.points
        if self.when:
            line["when"] = {key: list(values) for key, values in self.when.items()}
        return line

    def contains(self, value: Any) -> bool:
        """Whether the range has this value."""
        distribution = self.distribution
        if isinstance(distribution, CategoricalDistribution):
            return value in distribution.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(distribution, IntDistribution):
            reached = (value - distribution.low) % distribution.step == 0
            return reached and distribution.low <= value <= distribution.high
        return isinstance(distribution, FloatDistribution) and distribution.low <= value <= distribution.high


def meant(word: Any, allowed: Any) -> str:
    """`; did you mean ...?` if one of the allowed words is close, else nothing."""
    close = difflib.get_close_matches(str(word), [str(one) for one in allowed], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _distribution(kind: str, line: Mapping[Any, Any]) -> BaseDistribution:
    if kind == "categorical":
        return CategoricalDistribution(_choices(line["choices"]))
    if kind == "int":
        return _int_distribution(line)
    low, high = _number(line, "low"), _number(line, "high")
    _require_order(low, high)
    log = kind != "uniform"
    if log and low <= 0:
        raise ValueError(f"got low {low}, allowed: above 0, for the range is logarithmic")
    return FloatDistribution(float(low), float(high), log=log)


def _line_of(distribution: BaseDistribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"type": "categorical", "choices": list(distribution.choices)}
    if isinstance(distribution, IntDistribution):
        spacing: dict[str, Any] = {"log": True} if distribution.log else {"step": distribution.step}
        return {"type": "int", "low": distribution.low, "high": distribution.high, **spacing}
    assert isinstance(distribution, FloatDistribution)
    kind = "loguniform" if distribution.log else "uniform"
    return {"type": kind, "low": distribution.low, "high": distribution.high}


def _when(conditions: Any) -> dict[str, tuple[Any, ...]]:
    """Each key that the entry depends on, and the values with which it is searched."""
    if not isinstance(conditions, Mapping):
        raise ValueError(f"got when {conditions!r}, allowed: a key and its values, such as {WHEN_EXAMPLE}")
    return {str(key): _when_values(str(key), values) for key, values in conditions.items()}


def _when_values(key: str, values: Any) -> tuple[Any, ...]:
    listed = list(values) if isinstance(values, list | tuple) else [values]
    if not listed or not all(isinstance(value, bool | int | float | str) for value in listed):
        raise ValueError(f"got when {key} {values!r}, allowed: one of its choices or a list of them")
    return tuple(decode_number(value) for value in listed)


def _kind(entry: Any) -> str:
    """The type of the range, once its fields are known to be the right ones."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"got {entry!r}, allowed: a range such as {EXAMPLES['loguniform']}")
    kind = entry.get("type")
    if not isinstance(kind, str) or kind not in FIELDS:
        raise ValueError(f"got type {kind!r}, allowed: {', '.join(FIELDS)}{meant(kind, FIELDS)}")
    needed, optional = FIELDS[kind]
    for name in entry:
        if name not in ("type", *needed, *optional):
            allowed = (*needed, *optional)
            raise ValueError(f"got {name!r}, allowed for {kind}: {', '.join(allowed)}{meant(name, allowed)}")
    if missing := [name for name in needed if name not in entry]:
        raise ValueError(f"{' and '.join(missing)} missing; write for example {EXAMPLES[kind]}")
    return kind


def _int_distribution(entry: Mapping[Any, Any]) -> IntDistribution:
    low, high = _whole(entry, "low"), _whole(entry, "high")
    _require_order(low, high)
    log = entry.get("log", False)
    if not isinstance(log, bool):
        raise ValueError(f"got log {log!r}, allowed: true or false")
    if log:
        if "step" in entry:
            raise ValueError(f"got log: true with step {entry['step']!r}, allowed: one of them, not both")
        if low < 1:
            raise ValueError(f"got low {low}, allowed: 1 or more, for the range is logarithmic")
        return IntDistribution(low, high, log=True)
    step = _whole(entry, "step") if "step" in entry else 1
    if step < 1:
        raise ValueError(f"got step {step}, allowed: 1 or more")
    if beyond := (high - low) % step:  # Optuna would lower `high` and only warn
        raise ValueError(
            f"got high {high}, which steps of {step} from {low} never reach; "
            f"write high: {high - beyond} or high: {high - beyond + step}"
        )
    return IntDistribution(low, high, step=step)


def _choices(choices: Any) -> list[bool | int | float | str]:
    if not isinstance(choices, list | tuple):
        raise ValueError(f"got choices {choices!r}, allowed: a list such as [4, 8, 16]")
    for choice in choices:
        if not isinstance(choice, bool | int | float | str):
            raise ValueError(f"got the choice {choice!r}, allowed: a number, text, true or false")
    decoded = [decode_number(choice) for choice in choices]
    if len(set(decoded)) < len(decoded):
        raise ValueError(f"got choices {decoded}, of which some are equal; name each once")
    if len(decoded) < 2:
        raise ValueError(f"got choices {decoded}, allowed: two or more; a single value belongs in the configuration")
    return decoded


def _number(entry: Mapping[Any, Any], name: str) -> float:
    value = decode_number(entry[name])
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"got {name} {value!r}, allowed: a number")
    return value


def _whole(entry: Mapping[Any, Any], name: str) -> int:
    value = _number(entry, name)
    if not isinstance(value, int):
        raise ValueError(f"got {name} {value!r}, allowed: a whole number")
    return value


def _require_order(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(
            f"got low {low} and high {high}, allowed: low < high; a single value belongs in the configuration"
        )


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


ROUNDING = 1e-9


def share_problems(entries: Mapping[str, Entry]) -> Iterator[str]:
    """A line, `KEY: ...`, if a key would have its share with no other."""
    shares = [key for key, entry in entries.items() if entry.share]
    if len(shares) == 1:
        yield (
            f"{shares[0]}: the only key of type share, so that its value would never change; give the type to two "
            "keys or more, or write type: loguniform"
        )


def resolve(entries: Mapping[str, Entry], params: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The values for the configuration: shares scaled to the sum of the configuration's own values of these keys.

    The configuration's own values resolve to themselves.
    """
    shares = [key for key in params if key in entries and entries[key].share]
    if not shares:
        return dict(params)
    scale = sum(config.value(key) for key in shares) / sum(params[key] for key in shares)
    return {key: value * scale if key in shares else value for key, value in params.items()}


def draw(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> dict[str, Any]:
    """The raw weights within their ranges that have the balance of these values; other keys as they are.

    They are the values themselves where these lie within their ranges, else at the nearest scale. If no scale suits all
    ranges, nothing is changed: the values lie outside the space.
    """
    ranges = {key: entry.distribution for key, entry in entries.items() if entry.share and key in values}
    shares = {key: found for key, found in ranges.items() if isinstance(found, FloatDistribution)}
    if not shares or any(not isinstance(values[key], int | float) or values[key] <= 0 for key in shares):
        return dict(values)
    least = max(found.low / values[key] for key, found in shares.items())
    most = min(found.high / values[key] for key, found in shares.items())
    if least > most * (1 + ROUNDING):
        return dict(values)
    scale = min(max(1.0, least), most)
    drawn = {key: min(max(values[key] * scale, found.low), found.high) for key, found in shares.items()}
    return {**values, **drawn}
