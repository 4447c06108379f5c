"""Subjects whose network has a fault: each is put into a copy, after it is built."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject

Fault = Callable[[Any], None]
"""Changes a learner of our network."""


@dataclass
class FaultySubject(Subject):
    """Every learner that it gives has the fault."""

    fault: Fault = lambda learner: None

    def fresh_learner(self) -> Any:
        learner = super().fresh_learner()
        self.fault(learner)
        return learner


def findings(subject: Subject, checks: Sequence[Check]) -> dict[str, list[Finding]]:
    """What the checks say, by their names."""
    found: dict[str, list[Finding]] = {check.name: [] for check in checks}
    for finding in examine(subject, tuple(checks)):
        found.setdefault(finding.check, []).append(finding)
    return found


def grave(found: dict[str, list[Finding]]) -> dict[str, str]:
    """Of each check that warns or has a problem, what it says."""
    return {
        name: " | ".join(f.figure for f in of_check if f.level in ("warning", "problem"))
        for name, of_check in found.items()
        if any(f.level in ("warning", "problem") for f in of_check)
    }
