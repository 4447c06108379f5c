"""Candidates for heads: taken, named, ordered, or left out with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from made_exports import Said, export, pictures_of

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError
from raytune_m2f.project.export import Value
from raytune_m2f.project.fields import HEADS, Candidate, Head, candidates, heads_of
from raytune_m2f.project.masks import masks_of


def found(
    folder: Path,
    objects: list[dict[str, Value]],
    asked: tuple[str, ...] = (),
    classes: Mapping[str, tuple[str, ...]] | None = None,
) -> dict[str, Candidate]:
    """The candidates by place, of pictures with four objects each."""
    said = [[("apple", fields) for fields in objects[at : at + 4]] for at in range(0, len(objects), 4)]
    made = export(pictures_of(folder, said), classes)
    return {one.place: one for one in candidates(made, masks_of(made), asked)}


RIPE: list[dict[str, Value]] = [
    {"attributes.ripeness": "ripe", "attributes.grade": 10, "id": 7},
    {"attributes.ripeness": "green", "attributes.grade": 9, "id": 8},
]


def test_labels_are_taken_and_the_rest_says_why(tmp_path: Path) -> None:
    fields = found(tmp_path, [{**RIPE[n % 2], "id": n} for n in range(20)])
    heads = [(head.name, head.classes) for head in heads_of(fields.values())]
    assert heads == [("ripeness", ("green", "ripe")), ("grade", ("9", "10"))]
    assert fields["id"].head is None
    assert "an id" in fields["id"].reason


def test_classes_have_the_order_of_the_export(tmp_path: Path) -> None:
    listed = {"attributes.ripeness": ("ripe", "rotten", "green")}
    head = found(tmp_path, RIPE * 5, classes=listed)["attributes.ripeness"].head
    assert head is not None
    assert head.classes == ("ripe", "green")
    objects: list[dict[str, Value]] = [*RIPE, {}, {"attributes.ripeness": "unknown"}]
    assert [head.label(fields) for fields in objects] == [0, 1, None, None]


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (("ripeness=attributes.ripeness",), {"attributes.ripeness": "ripeness"}),
        (("attributes.ripeness",), {"attributes.ripeness": "ripeness"}),
        (("ripeness",), {"attributes.ripeness": "ripeness"}),
        (("r=ripeness", "g=grade"), {"attributes.ripeness": "r", "attributes.grade": "g"}),
        (("none",), {}),
    ],
)
def test_what_is_asked_for_is_taken_and_nothing_else(
    tmp_path: Path, asked: tuple[str, ...], names: dict[str, str]
) -> None:
    fields = found(tmp_path, RIPE * 5, asked)
    assert {place: one.head.name for place, one in fields.items() if one.head} == names
    assert all(one.reason for one in fields.values() if one.head is None)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("attributes.ripenes",), r"no object has a field 'attributes.ripenes'; did you mean 'attributes.ripeness'\?"),
        (("a=attributes.colour",), r"no object has a field 'attributes.colour'.*There are: attributes.ripeness"),
        (("one",), "attributes.one cannot be a head: the same for all"),
        (("category_id=attributes.ripeness",), "'category_id', which has its own meaning in COCO"),
        (("my head=attributes.ripeness",), "allowed: letters, digits and _"),
        (("a=attributes.ripeness", "a=attributes.grade"), "'a', 2 times"),
        (("ripeness", "attributes.ripeness"), "attributes.ripeness is given twice"),
        (("a=none",), "no object has a field 'none'"),
    ],
)
def test_what_cannot_be_taken_is_one_clear_error(tmp_path: Path, asked: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        found(tmp_path, [{**fields, "attributes.one": 1} for fields in RIPE * 5], asked)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("attributes.class", "class_label"),
        ("attributes.category_id", None),  # an id by its name
        ("attributes.Reifegrad (grün)", "Reifegrad_grun"),
        ("attributes.成熟度", "subcategory"),
        ("attributes.2nd", "_2nd"),
        ("attributes.mask", "mask_label"),
    ],
)
def test_a_head_gets_a_name_that_a_configuration_allows(tmp_path: Path, place: str, name: str | None) -> None:
    head = found(tmp_path, [{place: value} for value in ("a", "b") * 5])[place].head
    assert (head.name if head else None) == name
    assert not head or not Config().problems({HEADS: [head.name]})


def test_equal_last_parts_get_different_names(tmp_path: Path) -> None:
    objects: list[dict[str, Value]] = [{"flags.kind": n % 2 == 0, "extra.kind": "ab"[n % 3 == 0]} for n in range(12)]
    heads = heads_of(found(tmp_path, objects).values())
    assert [head.name for head in heads] == ["kind", "kind_label"]


def test_no_more_than_four_heads_are_taken_without_a_word(tmp_path: Path) -> None:
    objects: list[dict[str, Value]] = [{f"attributes.a{k}": (n >> k) % 2 == 0 for k in range(6)} for n in range(64)]
    fields = found(tmp_path, objects)
    assert len(heads_of(fields.values())) == 4
    assert "4 others come first" in fields["attributes.a5"].reason


def test_words_for_unknown_are_counted_and_no_class(tmp_path: Path) -> None:
    objects: list[dict[str, Value]] = [*RIPE * 5, {"attributes.ripeness": "unknown"}, {"attributes.ripeness": ""}]
    one = found(tmp_path, objects)["attributes.ripeness"]
    assert one.head is not None
    assert one.head.classes == ("green", "ripe")
    assert dict(one.unknown_words) == {"unknown": 1, "": 1}


def test_text_of_several_values_comes_before_truth_values(tmp_path: Path) -> None:
    objects: list[dict[str, Value]] = [
        {**{f"is_{k}": (n >> k) % 2 == 0 for k in range(6)}, "ripe": ("no", "half", "yes")[n % 3]} for n in range(64)
    ]
    assert [head.place for head in heads_of(found(tmp_path, objects).values())] == ["is_0", "is_1", "is_2", "ripe"]


def test_heads_that_the_export_declares_are_all_taken(tmp_path: Path) -> None:
    objects: list[dict[str, Value]] = [{f"h{k}": "ab"[(n >> k) % 2] for k in range(6)} for n in range(64)]
    objects = [{**fields, "rare": "b" if n == 0 else "a"} for n, fields in enumerate(objects)]
    fields = found(tmp_path, objects, classes=dict.fromkeys(objects[0], ("b", "a")))
    assert [head.place for head in heads_of(fields.values())] == [*(f"h{k}" for k in range(6)), "rare"]
    assert "98.4 % are 'a'" in fields["rare"].doubt


def test_labels_of_a_declared_head_may_stand_in_attributes(tmp_path: Path) -> None:
    said: list[list[Said]] = [
        [(kind, {"attributes.ripeness": label})] for kind, label in (("a", "ripe"), ("b", "green"))
    ]
    made = export(pictures_of(tmp_path, said * 3), {"ripeness": ("green", "ripe")})
    (one,) = candidates(made, masks_of(made), [])
    assert one.head == Head("ripeness", "attributes.ripeness", ("green", "ripe"))
    assert "each category has one value" in one.doubt
