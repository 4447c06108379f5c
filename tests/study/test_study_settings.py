"""Settings of a study: what is wrong in them is named, with what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.errors import StudyError
from raytune_m2f.study.settings import Budget, StudySettings

BUDGET = {"budget": {"trials": 3}}


def test_settings_are_read_from_plain_values() -> None:
    settings = StudySettings.from_dict({**BUDGET, "metrics": ["segm/AP"]})
    assert settings == StudySettings(budget=Budget(trials=3))
    assert StudySettings.from_dict(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^s: budget: missing$"),
        ({"budget": {}}, "^s: budget: a study needs at least one limit above 0: trials, iterations"),
        ({"budget": {"trials": 0}}, r"^s: budget\.trials: got 0, allowed: greater than or equal to 1$"),
        ({**BUDGET, "sampler": "tpee"}, "^s: sampler: got 'tpee', allowed: 'auto', 'tpe', 'gp', .*; did you mean tpe"),
        ({**BUDGET, "seeds": 1}, "^s: seeds: there is no such setting$"),
        ({**BUDGET, "metrics": []}, "^s: metrics: a study needs a metric"),
        ({"budget": {"trials": 0}, "seed": -1}, r"^2 problems:\n  s: budget.*\n  s: seed"),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        StudySettings.from_dict(values, source="s")
