"""What a study maximises, and what it must not exceed, as text: `segm/AP + 0.5*ripeness/accuracy`, `memory_gb<=20`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raytune_m2f.errors import InputError, NonFiniteLossError, TrainingError

_TERM = re.compile(r"(?P<sign>-)?(?:(?P<weight>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*\*\s*)?(?P<key>[^\s*<>=]+)")
_CONSTRAINT = re.compile(r"(?P<key>[^\s*<>=]+)\s*(?P<sign><=|>=)\s*(?P<bound>[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)")


@dataclass(frozen=True)
class Objective:
    """A weighted sum of a report's entries; more is better.

    Attributes:
        text: as it was given.
        terms: weight and key of each summand.
    """

    text: str
    terms: tuple[tuple[float, str], ...]

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read `KEY`, `-KEY`, `WEIGHT*KEY`, or several of them joined by ` + ` or ` - `.

        Raises:
            InputError: it is none of these.
        """
        first, *rest = re.split(r"\s+([+-])\s+", text.strip())
        terms = []
        for sign, part in (("+", first), *zip(rest[::2], rest[1::2], strict=True)):
            match = _TERM.fullmatch(part)
            if match is None:
                raise InputError(
                    f"metric {text!r}: got {part!r}, allowed: a key of the reports such as segm/AP, -latency_ms for "
                    'what should be low, or a weighted sum such as "segm/AP + 0.5*ripeness/accuracy"'
                )
            negative = (sign == "-") != (match["sign"] is not None)
            terms.append(((-1.0 if negative else 1.0) * float(match["weight"] or 1), match["key"]))
        return cls(text, tuple(terms))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for _, key in self.terms)

    def value(self, report: Mapping[str, Any]) -> float:
        """The score of a report.

        Raises:
            TrainingError: the report lacks a key.
            NonFiniteLossError: an entry is NaN or infinite.
        """
        return sum(weight * finite_entry(report, key) for weight, key in self.terms)


@dataclass(frozen=True)
class Constraint:
    """A bound on an entry of a report, `KEY<=NUMBER` or `KEY>=NUMBER`; a trial beyond it cannot be the best."""

    text: str
    key: str
    bound: float
    upper: bool

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """Raises InputError unless it is a bound."""
        match = _CONSTRAINT.fullmatch(text.strip())
        if match is None:
            raise InputError(f"constraint {text!r}: allowed is KEY<=NUMBER or KEY>=NUMBER, e.g. memory_gb<=20")
        return cls(text, match["key"], float(match["bound"]), match["sign"] == "<=")

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def violation(self, report: Mapping[str, Any]) -> float:
        """By how much the bound is exceeded; at most 0 where it is kept. Raises as `Objective.value`."""
        excess = finite_entry(report, self.key) - self.bound
        return excess if self.upper else -excess


def finite_entry(report: Mapping[str, Any], key: str) -> float:
    """A number of a report, by its key.

    Raises:
        TrainingError: there is no such key, or it is no number.
        NonFiniteLossError: it is NaN or infinite.
    """
    if key not in report:
        raise TrainingError(f"a report has no {key!r}; it has {', '.join(sorted(report))}")
    value = report[key]
    if value is None or isinstance(value, str):  # in the record, None is what was not finite
        raise TrainingError(f"{key} is {value!r} at iteration {report['iteration']}, which is no number")
    value = float(value)
    if not math.isfinite(value):
        raise NonFiniteLossError(f"{key} is {value} at iteration {report['iteration']}")
    return value
