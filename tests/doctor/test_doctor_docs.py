"""docs/doctor.md has a row for every check, below the heading of its group."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from raytune_m2f.config import Config, known_keys
from raytune_m2f.doctor.examine import CHECKS
from raytune_m2f.doctor.finding import Group

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "doctor.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\|[^|]+\|[^|]+\|([^|]+)\|[^|]+\|$", re.MULTILINE)


def sections() -> dict[str, str]:
    parts = re.split(r"^## (\w+)\n", TEXT, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_its_headings_are_the_groups_in_their_order() -> None:
    assert [name.lower() for name in sections()] == list(get_args(Group))


@pytest.mark.parametrize("name", [check.name for check in CHECKS])
def test_every_check_has_a_row(name: str) -> None:
    cells = ROW.findall(sections()[name.partition("/")[0].capitalize()])
    assert any(f"`{name}`" in cell for cell in cells)


def test_every_row_is_of_a_check() -> None:
    known = {check.name for check in CHECKS} | {"data/read", "model/build"}
    named = {name for cell in ROW.findall(TEXT) for name in re.findall(r"`(\w+/\w+)`", cell)}
    assert named <= known


def test_checks_have_names_of_their_own_and_ask_something() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(check.group in get_args(Group) for check in CHECKS)
    assert all(check.asks.endswith("?") for check in CHECKS)


def test_keys_that_it_names_are_keys() -> None:
    keys = set(known_keys(Config))
    named = re.findall(r"`((?:MODEL|SOLVER|INPUT|TEST|DATASETS|DATALOADER|MODEL_EMA)\.[A-Z_.]+)(?:=[^`]*)?`", TEXT)
    assert named
    assert [key for key in named if key not in keys] == []
