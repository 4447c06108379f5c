"""What the vitals of a report are said to mean."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.model import MAIN
from raytune_m2f.training import symptoms as module
from raytune_m2f.training.symptoms import described, symptoms


def report(head: str = "ripeness", /, **vitals: float) -> dict[str, Any]:
    sound = {"right": 70.0, "entropy": 60.0, "no_object": 5.0, "largest": 50.0, "majority": 45.0, "gradient": 4.0}
    return {"segm/AP": 12.0, **{f"vitals/{head}/{name}": value for name, value in {**sound, **vitals}.items()}}


def test_a_head_that_learns_has_none() -> None:
    assert symptoms(report()) == {}
    assert list(described(report())) == []


@pytest.mark.parametrize(
    ("vitals", "words"),
    [
        ({"no_object": 100.0, "largest": 0.0}, "it says 'no object' of 100 % of the matched instances"),
        ({"largest": 99.0}, "it says one class of 99 % of the matched instances, which 45 % are of at most"),
        ({"gradient": 0.0}, "its classifier gets no gradient"),
    ],
)
def test_a_head_that_learns_nothing_has_one(vitals: dict[str, float], words: str) -> None:
    assert symptoms(report("ripeness", **vitals)) == {"ripeness": words}
    assert list(described(report(MAIN, **vitals))) == [f"the category: {words}"]


def test_one_class_is_right_where_nearly_all_labels_are_of_it() -> None:
    assert symptoms(report(largest=100.0, majority=97.0)) == {}


def test_instances_without_a_query_are_said() -> None:
    (text,) = described({**report(), "vitals/unmatched": 12.0})
    assert "12 % of the training instances" in text
    assert "NUM_OBJECT_QUERIES" in text


def test_reports_of_before_there_were_vitals_say_nothing() -> None:
    assert symptoms({"segm/AP": 3.0}) == {}
    assert list(described({"segm/AP": 3.0})) == []


def test_what_is_no_number_says_nothing() -> None:
    damaged = {**report(no_object=100.0), "vitals/ripeness/no_object": "all", "vitals/unmatched": None, "vitals/x": []}
    assert symptoms(damaged) == {}
    assert list(described(damaged)) == []


def test_the_main_head_has_its_name() -> None:
    assert module.MAIN == MAIN
