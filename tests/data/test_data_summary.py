"""What was read, in numbers; what is worth a look; what cannot be meant."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raytune_m2f.data import Annotation, Categories, CocoDataset, ImageRecord, summarize, summarize_all
from raytune_m2f.errors import DatasetError
from raytune_m2f.notes import Note

CATEGORIES = Categories((3, 9), ("red", "blue"), {"ripeness": ("green", "ripe")})
SQUARE = (array("d", [2, 2, 12, 2, 12, 12, 2, 12]),)


def annotation(label: int = 0, *, crowd: bool = False, ripeness: int = 0, **fields: Any) -> Annotation:
    return replace(Annotation(1, label, SQUARE, (2, 2, 10, 10), 100, crowd, {"ripeness": ripeness}), **fields)


def dataset(*images: Sequence[Annotation], name: str = "t", folder: str = "train", **fields: Any) -> CocoDataset:
    records = tuple(
        ImageRecord(i, Path(f"/{folder}/{i}.png"), 40, 30, tuple(annotations))
        for i, annotations in enumerate(images, 1)
    )
    return CocoDataset(name, Path(f"{name}.json"), Path(f"/{folder}"), CATEGORIES, records, **fields)


def test_everything_is_counted() -> None:
    data = dataset(
        [annotation(0), annotation(0, ripeness=-1), annotation(1, crowd=True)], [], [annotation(1, crowd=True)],
        without_polygon=2, unnamed_files=7,
    )  # fmt: skip
    summary = summarize(data)
    assert (summary.images, summary.with_instances, summary.instances, summary.crowds) == (3, 1, 2, 2)
    assert summary.per_category == {"red": (2, 0), "blue": (0, 2)}
    assert summary.labels == {"ripeness": (1, 1)}
    assert list(summary.lines()) == [
        "t (t.json): 3 images, 2 instances, 2 in an image at most; besides 2 images without an instance, 2 crowds, "
        "2 annotations without a valid polygon",
        "instances of red 2",
        "no instance of 1 of the 2 categories: blue",
        "ripeness: 1 labels known (green 1, ripe 0), 1 unknown",
        "masks and boxes agree in 4 of 4 annotations",
        "7 further images in the folder, which the file does not name",
    ]


def test_good_data_have_no_warnings() -> None:
    train = dataset([annotation(0), annotation(1)], [annotation(0)])
    test = dataset([annotation(0)], name="v", folder="val")
    both = summarize_all([train], test, filter_empty=True)
    assert both.warnings() == []
    both.require_usable()
    assert (both.images, both.instances, both.heads, both.most_instances) == (2, 3, ("ripeness",), 2)
    assert both.identity["v"] == {"images": 1, "instances": 1, "crowds": 0}
    assert "train t (t.json): 2 images" in both.text()
    assert "test v (v.json): 1 images" in both.text()


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([[annotation(0), annotation(0), annotation(0), annotation(1, crowd=True)]], "all annotations of blue (1) are"),
        (
            [[annotation(0), annotation(0, crowd=True), annotation(1)], [annotation(1, crowd=True)]],
            "2 of 4 annotations",
        ),
    ],
)
def test_single_objects_that_may_be_marked_crowd_are_a_warning(images: list[list[Annotation]], says: str) -> None:
    (warning,) = summarize(dataset(*images)).warnings()
    assert says in warning
    assert "set iscrowd to 0" in warning


def test_few_crowds_are_no_warning() -> None:
    assert not list(summarize(dataset([annotation(0), annotation(0), annotation(0, crowd=True)])).warnings())


def test_what_else_is_worth_a_look() -> None:
    one = dataset([annotation(0)], [annotation(1, bbox=(20, 20, 9, 9), area=1e5)], [annotation()], without_polygon=3)
    same = replace(one, records=(*one.records, replace(one.records[0], id=9)), remarks=(Note("data/labels", "odd"),))
    text = "\n".join(summarize(same).warnings())
    for part in (
        "1 of 4 masks lie elsewhere than their own bbox",
        "1 of 4 areas cannot be those of their masks",
        "t.json: odd",
        "left out 3 annotations without a valid polygon",
        "1 files are named by several images: /train/1.png",
    ):
        assert part in text


def test_an_image_in_both_sets_is_a_warning_said_once() -> None:
    data = dataset([annotation(0)], [annotation(1)], remarks=(Note("data/labels", "odd"),))
    shared, odd = sorted(summarize_all([data], data, filter_empty=True).warnings())
    assert shared.startswith("2 images are both in the training and in the test set")
    assert odd == "t.json: odd"


def test_contradicting_masks_are_refused_with_both_boxes() -> None:
    data = dataset([annotation(0, bbox=(20, 15, 9, 9))], [annotation(1, bbox=(25, 18, 9, 9))])
    with pytest.raises(DatasetError, match=r"t\.json: 2 of 2 masks lie elsewhere") as error:
        summarize(data).require_usable()
    assert "annotation 1: bbox [20, 15, 9, 9], its mask lies in [2, 2, 10, 10]" in str(error.value)


@pytest.mark.parametrize(
    ("images", "why"),
    [
        ([[annotation(0, crowd=True)], [annotation(1, crowd=True)]], "all 2 annotations are crowds"),
        ([[], []], "2 images, but no annotation with a mask"),
    ],
)
def test_nothing_to_find_and_nothing_to_learn_are_refused(images: list[list[Annotation]], why: str) -> None:
    good, bad = dataset([annotation(0)]), dataset(*images, name="bad", folder="bad")
    with pytest.raises(DatasetError, match=rf"nothing to find in bad\.json: {why}"):
        summarize_all([good], bad, filter_empty=True).require_usable()
    with pytest.raises(DatasetError, match=rf"nothing to learn: bad\.json: {why}"):
        summarize_all([bad], good, filter_empty=True).require_usable()
    summarize_all([bad, good], good, filter_empty=False).require_usable()


def test_a_head_without_labels_is_refused_in_the_test_set_and_in_all_training_sets() -> None:
    good = dataset([annotation(0)])
    none = dataset([annotation(0, ripeness=-1)], name="none", folder="none", unlabelled={"ripeness": "no label"})
    with pytest.raises(DatasetError, match=r"none\.json: no label"):
        summarize_all([good], none, filter_empty=True).require_usable()
    with pytest.raises(DatasetError, match=r"none\.json: no label"):
        summarize_all([none], good, filter_empty=True).require_usable()
    partly = summarize_all([good, none], good, filter_empty=True)
    partly.require_usable()
    assert "none.json: no label" in partly.warnings()


def test_labels_of_crowds_alone_are_none() -> None:
    crowds = dataset([annotation(0, crowd=True), annotation(0, ripeness=-1)])
    with pytest.raises(DatasetError, match=r"t\.json: no instance has a label of the subcategory 'ripeness'"):
        summarize_all([crowds], dataset([annotation(0)]), filter_empty=True).require_usable()


def test_images_without_instances_are_trained_on_where_they_are_not_filtered() -> None:
    data = dataset([annotation(0)], [], [])
    assert [summarize_all([data], data, filter_empty=filtered).images for filtered in (True, False)] == [1, 3]
    assert "not trained on: 2 images without an instance" in summarize_all([data], data, filter_empty=True).text()
