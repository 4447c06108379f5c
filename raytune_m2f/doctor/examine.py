"""Run the checks in order, and keep what they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from raytune_m2f.doctor import cost, images, keys, labels, learning, network, scoring, settings
from raytune_m2f.doctor.finding import Check, Finding, Need
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import InputError

CHECKS: tuple[Check, ...] = (
    *labels.CHECKS,
    *images.CHECKS,
    *scoring.CHECKS,
    *settings.CHECKS,
    *keys.CHECKS,
    *network.CHECKS,
    *learning.CHECKS,
    *cost.CHECKS,
)
"""Every check, in the order in which they are run: what is cheap and what the others rest on comes first."""

READ: dict[Need, str] = {"engine": "data/read", "learner": "model/build"}
"""What it is called to make what checks need."""


@dataclass(frozen=True)
class Diagnosis:
    """What was found, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def problems(self) -> list[Finding]:
        """What would make a training or its score wrong."""
        return [finding for finding in self.findings if finding.level == "problem"]

    @property
    def warnings(self) -> list[Finding]:
        """What is worth a look."""
        return [finding for finding in self.findings if finding.level == "warning"]

    def to_json(self) -> str:
        """{"problems": 0, "warnings": 1, "findings": [{"check", "level", "figure", "meaning", "remedy", "values"}]}."""
        content = {"problems": len(self.problems), "warnings": len(self.warnings)}
        return json.dumps(
            {**content, "findings": [finding.to_dict() for finding in self.findings]}, indent=1, allow_nan=False
        )


def examine(
    subject: Subject,
    checks: tuple[Check, ...] = CHECKS,
    *,
    quick: bool = False,
    begin: Callable[[Check], None] | None = None,
) -> Iterator[Finding]:
    """Every finding as it is made.

    Data that cannot be read, or a network that cannot be built, is one problem; the checks that need it are skipped.

    Args:
        quick: only the checks that take seconds.
        begin: called with each check before it looks.
    """
    made: dict[Need, bool] = {"config": True}
    said: dict[str, str] = {}  # what ended a check, and the first that it ended
    for check in checks:
        if quick and not check.quick:
            continue
        if begin is not None:
            begin(check)
        for need in ("engine", "learner") if check.needs == "learner" else (check.needs,):
            if need not in made:
                yield from _make(subject, need, made)
        if made[check.needs]:
            yield from _looked(check, subject, said)
        else:
            yield check.skipped(f"not looked at: see {READ['learner' if made['engine'] else 'engine']}")


def _make(subject: Subject, need: Need, made: dict[Need, bool]) -> Iterator[Finding]:
    if need == "learner" and not made["engine"]:
        made[need] = False
        return
    try:
        _ = subject.engine if need == "engine" else subject.learner
        made[need] = True
    except InputError as error:
        made[need] = False
        remedy = "Correct what is named here, then run doctor again."
        yield Finding(READ[need], "problem", str(error), "Nothing that rests on it could be looked at.", remedy)


def _looked(check: Check, subject: Subject, said: dict[str, str]) -> Iterator[Finding]:
    try:
        yield from check.look(subject)
    except InputError as error:
        if (first := said.setdefault(str(error), check.name)) != check.name:
            yield check.skipped(f"not looked at: see {first}")
            return
        yield check.problem(str(error), "", "Correct what is named here, then run doctor again.")
