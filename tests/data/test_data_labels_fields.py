"""Which fields are labels, and by what names their classes go."""

from __future__ import annotations

import pytest

from raytune_m2f.data.labels.fields import FieldValues, alike, class_name, last_part, natural


def values(place: str, listed: list[object], categories: list[str] | None = None) -> FieldValues:
    found = FieldValues(place)
    for number, value in enumerate(listed):
        found.add(value, categories[number] if categories else "one")
    return found


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "true"),
        (False, "false"),
        (2, "2"),
        (2.0, "2"),
        (2.5, "2.5"),
        (" fully  ripe\n", "fully ripe"),
        ("none", "none"),
        (float("nan"), None),
        ("", None),
        ("  ", None),
        ("Unknown", None),
        ("__undefined__", None),
        ("N/A", None),
    ],
)
def test_a_value_is_the_name_of_a_class_or_unknown(value: object, name: str | None) -> None:
    assert class_name(value) == name


def test_names_are_in_the_order_that_people_expect() -> None:
    assert sorted(["grade 10", "grade 2", "true", "false"], key=natural) == ["false", "grade 2", "grade 10", "true"]
    assert sorted(["10", "2.5", "-3", "2"], key=natural) == ["-3", "2", "2.5", "10"]


@pytest.mark.parametrize("place", ["attributes.ripeness", "ripeness", "extra.labels[].ripeness"])
def test_the_last_part_of_a_place(place: str) -> None:
    assert last_part(place) == "ripeness"
    assert last_part("attributes[]") == "attributes"


@pytest.mark.parametrize(
    "listed",
    [
        ["green", "ripe"] * 5,
        [True, False, False, False] * 5,
        [0, 1, 2] * 5,
        [f"class {n}" for n in range(20)] * 3,
    ],
)
def test_few_values_of_many_objects_are_labels(listed: list[object]) -> None:
    assert values("attributes.kind", listed).unlikely(len(listed)) == ""


@pytest.mark.parametrize(
    ("place", "listed", "reason"),
    [
        ("kind", [], "no object has a value"),
        ("kind", ["unknown", ""], "no object has a value"),
        ("kind", ["ripe"] * 9, "the same for all that have it: 'ripe'"),
        ("track_id", [1, 2] * 9, "an id, by its name"),
        ("attributes.annotationId", ["a", "b"] * 9, "an id, by its name"),
        ("attributes.occluded", [True, False] * 9, "tool's own"),
        ("age", list(range(1, 81)), "numbers from 1 to 80, not classes"),
        ("angle", [0.5, 1.5] * 9, "numbers from 0.5 to 1.5, not classes"),
        ("remark", ["big", "bruised here", "odd"], "free text, or too few of each: 3 different values in 3 objects"),
        ("remark", [f"remark {n}" for n in range(101)], "101 different values in 101 objects"),
        ("remark", ["x" * 61, "y"] * 9, "free text: 'xxxx"),
        ("kind", ["a"] * 120 + ["b"] * 2, "98.4 % are 'a'"),
    ],
)
def test_what_is_no_field_of_labels_says_why(place: str, listed: list[object], reason: str) -> None:
    assert reason in values(place, listed).unlikely(len(listed))


def test_a_field_that_few_objects_have_is_not_taken() -> None:
    assert "known of 12 of 400 objects" in values("kind", ["a", "b"] * 6).unlikely(400)
    assert values("kind", ["a", "b"] * 40).unlikely(4000) == ""  # 80 labels can be learnt from


def test_a_field_that_the_category_decides_teaches_nothing() -> None:
    categories = ["apple", "pear"] * 5
    assert "each category has one value" in values("colour", ["red", "green"] * 5, categories).unlikely(10)
    assert values("colour", ["red", "green"] * 5, ["apple"] * 10).unlikely(10) == ""
    assert values("variety", ["gala", "fuji", "conference"] * 4, ["apple", "apple", "pear"] * 4).unlikely(12) == ""


def test_listed_values_are_labels_whatever_the_name() -> None:
    found = values("grade_no", [1, 2] * 5)
    assert "an id" in found.unlikely(10)
    found.listed = True
    assert found.unlikely(10) == ""


def test_names_that_differ_by_spelling_alone() -> None:
    assert alike(["ripe", "Ripe", "half-ripe", "half ripe", "green"]) == [["ripe", "Ripe"], ["half-ripe", "half ripe"]]
