"""One line of a search space, `{type: ..., ...}`, and Optuna's distribution for it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytune_m2f.config.fields.base import decode_number

FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "uniform": (("low", "high"), ()),
    "loguniform": (("low", "high"), ()),
    "int": (("low", "high"), ("step", "log")),
    "categorical": (("choices",), ()),
}
"""What each type of range needs, and what else it may have."""

EXAMPLES = {
    "uniform": "{type: uniform, low: 0.0, high: 1.0}",
    "loguniform": "{type: loguniform, low: 1.0e-5, high: 1.0e-3}",
    "int": "{type: int, low: 20, high: 300, step: 10}",
    "categorical": "{type: categorical, choices: [4, 8, 16]}",
}


def distribution_of(entry: Any) -> BaseDistribution:
    """Optuna's distribution.

    Raises:
        ValueError: saying what was got and what is allowed.
    """
    kind = _kind(entry)
    if kind == "categorical":
        return CategoricalDistribution(_choices(entry["choices"]))
    if kind == "int":
        return _int_distribution(entry)
    low, high = _number(entry, "low"), _number(entry, "high")
    _require_order(low, high)
    if kind == "loguniform" and low <= 0:
        raise ValueError(f"got low {low}, allowed: above 0, for the range is logarithmic")
    return FloatDistribution(float(low), float(high), log=kind == "loguniform")


def entry_of(distribution: BaseDistribution) -> dict[str, Any]:
    """The line that `distribution_of` reads as this distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return {"type": "categorical", "choices": list(distribution.choices)}
    if isinstance(distribution, IntDistribution):
        spacing: dict[str, Any] = {"log": True} if distribution.log else {"step": distribution.step}
        return {"type": "int", "low": distribution.low, "high": distribution.high, **spacing}
    assert isinstance(distribution, FloatDistribution)
    kind = "loguniform" if distribution.log else "uniform"
    return {"type": kind, "low": distribution.low, "high": distribution.high}


def _kind(entry: Any) -> str:
    """The type of the range, once its fields are known to be the right ones."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"got {entry!r}, allowed: a range such as {EXAMPLES['loguniform']}")
    kind = entry.get("type")
    if kind not in FIELDS:
        raise ValueError(f"got type {kind!r}, allowed: {', '.join(FIELDS)}{_meant(kind, FIELDS)}")
    needed, optional = FIELDS[kind]
    for name in entry:
        if name not in ("type", *needed, *optional):
            allowed = (*needed, *optional)
            raise ValueError(f"got {name!r}, allowed for {kind}: {', '.join(allowed)}{_meant(name, allowed)}")
    if missing := [name for name in needed if name not in entry]:
        raise ValueError(f"{' and '.join(missing)} missing; write for example {EXAMPLES[kind]}")
    return str(kind)


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


def _meant(word: Any, allowed: Any) -> str:
    close = difflib.get_close_matches(str(word), list(allowed), n=1)
    return f"; did you mean {close[0]}?" if close else ""
