"""What a study maximises, and what it must not exceed, as text: `segm/AP + 0.5*segm/AP_all`, `memory_gb<=20`.

A key is written as the reports have it, single blanks included: `segm/AP-traffic light`. One that looks like arithmetic
is put in quotes: `2*'segm/AP-a + b'`; in them a backslash stands before a quote and before another backslash.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from raytune_m2f.errors import InputError, NonFiniteLossError, TrainingError

_NUMBER = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_WORD = r"(?![+-](?:\s|$))[^\s*<>=]+"
_PLAIN = rf"""(?!['"]){_WORD}(?:[ ]{_WORD})*"""
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_KEY = rf"(?P<key>{_QUOTED}|{_PLAIN})"
_TERM = re.compile(rf"(?P<sign>-)?(?:(?P<weight>{_NUMBER})\s*\*\s*)?{_KEY}")
_JOINT = re.compile(r"\s+([+-])\s+")
_CONSTRAINT = re.compile(rf"{_KEY}\s*(?P<sign><=|>=)\s*(?P<bound>[+-]?{_NUMBER})")


def quoted(key: str) -> str:
    """A key as a metric or a constraint names it."""
    if re.fullmatch(_PLAIN, key) and not key.startswith("-"):
        return key
    return "'" + re.sub(r"(['\\])", r"\\\1", key) + "'"


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] in "'\"" else text


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
        """Read `KEY`, `-KEY`, `WEIGHT*KEY`, or several of them joined by ` + ` or ` - `; a key may be quoted.

        Raises:
            InputError: it is none of these.
        """
        given, position, sign = text.strip(), 0, "+"
        terms = []
        while True:
            term = _TERM.match(given, position)
            joint = _JOINT.match(given, term.end()) if term else None
            weight = float(term["weight"] or 1) if term else math.inf
            if term is None or (joint is None and term.end() < len(given)) or not math.isfinite(weight):
                raise InputError(_no_metric(text, given[position:]))
            negative = (sign == "-") != (term["sign"] is not None)
            terms.append((-weight if negative else weight, _unquoted(term["key"])))
            if joint is None:
                return cls(text, tuple(terms))
            position, sign = joint.end(), joint[1]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for _, key in self.terms)

    def value(self, report: Mapping[str, Any]) -> float:
        """The score of a report. Raises as `finite_entry`, also if the sum is NaN or infinite."""
        value = sum(weight * finite_entry(report, key) for weight, key in self.terms)
        if not math.isfinite(value):
            raise NonFiniteLossError(f"{self.text} is {value} at iteration {report.get('iteration')}")
        return value


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
        bound = float(match["bound"]) if match else math.inf
        if match is None or not math.isfinite(bound):
            raise InputError(
                f"constraint {text!r}: allowed is KEY<=NUMBER or KEY>=NUMBER, e.g. memory_gb<=20; a key of a name with "
                "arithmetic in it is put in quotes, such as \"'segm/AP-a + b'>=5\""
            )
        return cls(text, _unquoted(match["key"]), bound, match["sign"] == "<=")

    @property
    def keys(self) -> tuple[str, ...]:
        return (self.key,)

    def violation(self, report: Mapping[str, Any]) -> float:
        """By how much the bound is exceeded; at most 0 where it is kept. Raises as `finite_entry`."""
        excess = finite_entry(report, self.key) - self.bound
        return excess if self.upper else -excess


def _no_metric(text: str, part: str) -> str:
    return (
        f"metric {text!r}: got {part!r}, allowed: a key of the reports such as segm/AP, -latency_ms for what should "
        'be low, or a weighted sum such as "segm/AP + 0.5*segm/AP_all"; a key of a name with arithmetic in it is '
        "put in quotes, such as \"'segm/AP-a + b'\""
    )


def finite_entry(report: Mapping[str, Any], key: str) -> float:
    """A number of a report, by its key.

    Raises:
        TrainingError: there is no such key, or it is no number.
        NonFiniteLossError: it is NaN or infinite.
    """
    if key not in report:
        raise TrainingError(f"a report has no {key!r}; it has {', '.join(sorted(report))}")
    value, iteration = report[key], report.get("iteration")
    if not isinstance(value, Real):  # in the record, None is what was not finite
        raise TrainingError(f"{key} is {value!r} at iteration {iteration}, which is no number")
    try:
        number = float(value)
    except OverflowError:  # a whole number of a damaged record
        number = math.inf
    if not math.isfinite(number):
        raise NonFiniteLossError(f"{key} is {number} at iteration {iteration}")
    return number
