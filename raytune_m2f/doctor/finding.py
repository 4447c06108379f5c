"""What a check says, and what a check is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from raytune_m2f.doctor.subject import Subject

Level = Literal["ok", "warning", "problem", "skipped"]
"""`ok`: looked at, nothing to say. `warning`: may be meant, but costs score or time where it is not. `problem`: what is
trained or scored would be wrong, or nothing. `skipped`: not looked at, and why."""

Group = Literal["data", "evaluator", "configuration", "model", "learning", "cost"]
"""What is examined, in this order; a name is also the heading in docs/doctor.md."""

Need = Literal["config", "engine", "learner"]
"""The configuration alone; the data, read and checked; the network with its first weights."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's list.

    Attributes:
        check: of which check, `group/name`: "data/labels".
        level: how grave it is.
        figure: what was seen, with the number; one sentence.
        meaning: what that means for a training; empty where the figure says it.
        remedy: what to do, with the key, the file or the command; never empty in a warning or a problem.
        values: the numbers behind the figure by name, plain types, for `--json`.
    """

    check: str
    level: Level
    figure: str
    meaning: str = ""
    remedy: str = ""
    values: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON, which has no NaN and no infinity: None stands for them."""
        plain: dict[str, Any] = _without_nan(asdict(self))
        return plain


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Check:
    """A check: its name, what it asks, and the function that looks.

    Attributes:
        name: `group/name`, as in docs/doctor.md.
        asks: the question that it answers, as a short phrase; shown while it works.
        look: yields findings of this check; one of level `ok` if all is well. It may raise InputError, which becomes
            a problem.
        needs: what must exist before it can look; it is skipped where that cannot be made.
        quick: takes no more than seconds on any data set and any network: part of what `tune` runs first.
    """

    name: str
    asks: str
    look: Callable[[Subject], Iterable[Finding]]
    needs: Need = "engine"
    quick: bool = False

    @property
    def group(self) -> str:
        """The part of the name before the slash."""
        return self.name.partition("/")[0]

    def ok(self, figure: str, **values: Any) -> Finding:
        """All is well."""
        return Finding(self.name, "ok", figure, values=values)

    def skipped(self, figure: str) -> Finding:
        """Not looked at, and why."""
        return Finding(self.name, "skipped", figure)

    def warning(self, figure: str, meaning: str, remedy: str, **values: Any) -> Finding:
        """Worth a look."""
        return Finding(self.name, "warning", figure, _sentence(meaning), _sentence(remedy), values)

    def problem(self, figure: str, meaning: str, remedy: str, **values: Any) -> Finding:
        """Wrong, or of no use."""
        return Finding(self.name, "problem", figure, _sentence(meaning), _sentence(remedy), values)


def _sentence(text: str) -> str:
    """With a full stop."""
    return f"{text}." if text and text[-1] not in ".?!" else text
