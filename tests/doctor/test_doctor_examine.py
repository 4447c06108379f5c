"""What `examine` makes of checks that cannot look."""

from __future__ import annotations

from collections.abc import Iterator

from raytune_m2f.config import Config
from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import InputError


def _ended(message: str) -> Check:
    def look(subject: Subject) -> Iterator[Finding]:
        raise InputError(message)
        yield

    return Check(f"test/{message[0]}", "?", look, needs="config")


def test_what_ends_several_checks_is_one_problem() -> None:
    checks = (_ended("a.tif cannot be read"), _ended("b.tif cannot be read"))
    again = Check("test/again", "?", checks[0].look, needs="config")
    found = list(examine(Subject(Config()), (*checks, again)))
    assert [f.level for f in found] == ["problem", "problem", "skipped"]
    assert "test/a" in found[2].figure
