"""Labels of a head that are not in its own field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from raytune_m2f.data import Categories
from raytune_m2f.data.labels import find_labels, unused_labels, wrong_label_message
from raytune_m2f.errors import DatasetError

CLASSES = ("green", "fully ripe")
CATEGORIES = Categories((1,), ("apple",), {"ripeness": CLASSES})
PLAIN = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": [[0, 0, 9, 0, 9, 9]]}


def entries(*extra: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**PLAIN, **fields} for fields in extra]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"attributes": {"ripeness": "green", "occluded": False}}, r"attributes\.ripeness: 'green' \(2\)"),
        ({"attributes": {"Ripeness": 1}}, r"attributes\.Ripeness: 1 \(2\)"),
        ({"Ripeness": 1}, r"Ripeness: 1 \(2\)"),
        ({"RIPENESS": "Green"}, r"RIPENESS: 'Green' \(2\)"),
        ({"ripeness ": 0}, r"ripeness : 0 \(2\)"),
        ({"extra": {"labels": {"ripeness": 0}}}, r"extra\.labels\.ripeness: 0 \(2\)"),
        ({"attributes": [{"name": "ripeness", "value": "fully ripe"}]}, r"attributes\[\]\.value: 'fully ripe' \(2\)"),
        ({"tags": ["big", "fully_ripe"]}, r"tags\[\]: 'fully_ripe' \(2\)"),
        ({"attributes": {"green": True, "fully ripe": False}}, r"attributes\.green: True \(2\)"),
        ({"maturity": "Fully-Ripe"}, r"maturity: 'Fully-Ripe' \(2\)"),
    ],
)
def test_labels_elsewhere_are_an_error_that_says_where(fields: dict[str, Any], found: str) -> None:
    with pytest.raises(
        DatasetError, match=rf"a\.json: not one of the 2 .*'ripeness'.* another place: {found}"
    ) as error:
        find_labels(CATEGORIES, entries(fields, fields), source="a.json")
    assert 'integer field "ripeness" (0 = green, 1 = fully ripe)' in str(error.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "none but COCO's own fields"),
        ({"ripeness": None}, "none but COCO's own fields"),
        ({"attribute_ids": [3, 8], "track": 7}, r"the annotations have attribute_ids \(2\), track \(2\)"),
    ],
)
def test_no_label_anywhere_is_noted_with_the_fields_there_are(fields: dict[str, Any], says: str) -> None:
    unlabelled, remarks = find_labels(CATEGORIES, entries(fields, fields), source="a.json")
    assert says.replace("\\", "") in unlabelled["ripeness"]
    assert remarks == []


def test_labels_of_some_annotations_elsewhere_are_a_remark() -> None:
    some = entries({"ripeness": 0}, {"attributes": {"ripeness": "green"}}, {"color": "green"})
    unlabelled, (remark,) = find_labels(CATEGORIES, some, source="a.json")
    assert unlabelled == {}
    assert remark.figure.startswith("1 annotations have no label in the field 'ripeness'")
    assert "attributes.ripeness: 'green' (1)" in remark.figure


def test_unknown_labels_are_no_remark() -> None:
    some = entries({"ripeness": 0}, {}, {"color": "green"}, {"ripeness": None})
    assert find_labels(CATEGORIES, some, source="a.json") == ({}, [])
    assert find_labels(CATEGORIES, [], source="a.json") == ({}, [])


def test_deep_and_long_annotations_are_searched_in_bounds() -> None:
    deep: Any = "green"
    for _ in range(500):
        deep = {"more": deep}
    unlabelled, _ = find_labels(CATEGORIES, entries({"x": deep, "y": ["no"] * 10_000}), source="a.json")
    assert list(unlabelled) == ["ripeness"]


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        ("Fully ripe", "write the index of 'Fully ripe', 1"),
        ("red", "leave the field out where the class is unknown"),
        (2, "classes are counted from 0"),
        (-1, "leave the field out"),
        (True, "leave the field out"),
        (1.0, "leave the field out"),
    ],
)
def test_a_wrong_value_in_the_right_field_has_its_advice(value: object, advice: str) -> None:
    text = wrong_label_message("ripeness", value, CLASSES)
    assert "allowed is an integer from 0 to 1 (green, fully ripe)" in text
    assert text.endswith(advice) or advice in text


# Labels that no head reads


@pytest.mark.parametrize(
    ("content", "extra", "told"),
    [
        (
            {"subcategories": {"ripeness": ["a", "b"]}},
            {"ripeness": 1},
            r"have labels of ripeness.*\[ripeness\] learns them",
        ),
        ({}, {"attributes": {"ripeness": "ripe"}}, r"labels in attributes\.ripeness: ripe \(6\), green \(6\)\..* init"),
        ({}, {"attributes": [{"name": "ripeness", "value": "ripe"}]}, r"labels in attributes\[\]\.value"),
        ({"subcategories": {"ripeness": ["a", "b"]}}, {}, None),
        ({"subcategories": []}, {"attributes": {"occluded": False}}, None),
        ({}, {"score": 0.5, "track_id": 3, "attributes": {}}, None),
    ],
)
def test_labels_that_no_head_reads_are_told(content: dict[str, Any], extra: dict[str, Any], told: str | None) -> None:
    other = json.loads(json.dumps(extra).replace('"ripe"', '"green"').replace("false", "true"))
    note = unused_labels(content, entries(*[extra, other] * 6))
    assert (note is None) == (told is None)
    if note and told:
        assert note.topic == "data/fields"
        assert re.search(told, note.text)
