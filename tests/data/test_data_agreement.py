"""Masks and boxes of the same annotation: which contradictions are found, and by which name."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from raytune_m2f.data import Annotation, Categories, CocoDataset, ImageRecord, load_coco
from raytune_m2f.data.agreement import compare_masks_and_boxes

WIDTH, HEIGHT = 640, 480
Box = tuple[float, float, float, float]
Change = Callable[[Annotation], Annotation]


def annotation(number: int, box: Box) -> Annotation:
    """A hexagon that fills its box."""
    x, y, w, h = box
    corners = [(0.3, 0), (0.7, 0), (1, 0.5), (0.7, 1), (0.3, 1), (0, 0.5)]
    polygon = array("d", [value for px, py in corners for value in (x + px * w, y + py * h)])
    return Annotation(number, 0, (polygon,), box, 0.7 * w * h, False, {})


def dataset(change: Change = lambda a: a, *, count: int = 40, changed: int | None = None) -> CocoDataset:
    """Boxes of all sizes everywhere; the first `changed` annotations (all) are changed."""
    rng = np.random.default_rng(0)
    annotations = []
    for number in range(count):
        w, h = rng.uniform(12, 200, size=2)
        x, y = rng.uniform(0, WIDTH - w), rng.uniform(0, HEIGHT - h)
        one = annotation(number + 1, (float(x), float(y), float(w), float(h)))
        annotations.append(change(one) if number < (count if changed is None else changed) else one)
    record = ImageRecord(1, Path("/a.png"), WIDTH, HEIGHT, tuple(annotations))
    return CocoDataset("mine", Path("mine.json"), Path("/"), Categories((1,), ("a",)), (record,))


def boxed(box_of: Callable[[Box], tuple[float, ...]]) -> Change:
    def change(one: Annotation) -> Annotation:
        x, y, w, h = map(float, box_of(one.bbox))
        return replace(one, bbox=(x, y, w, h))

    return change


def drawn(x: float, y: float, *, exchange: bool = False) -> Change:
    """Polygons with x and y multiplied, perhaps exchanged."""

    def change(one: Annotation) -> Annotation:
        assert not isinstance(one.segmentation, dict)
        points = np.array(one.segmentation[0]).reshape(-1, 2) * [x, y]
        return replace(one, segmentation=(array("d", points[:, :: -1 if exchange else 1].ravel().tolist()),))

    return change


def test_masks_that_fill_their_boxes_agree() -> None:
    agreement = compare_masks_and_boxes(dataset())
    assert (agreement.compared, agreement.differing, agreement.areas_differing) == (40, 0, 0)
    assert not agreement.wrong
    assert agreement.examples == ()


@pytest.mark.parametrize(
    "change",
    [
        boxed(lambda box: tuple(map(round, box))),
        boxed(lambda box: (box[0] - 1, box[1] - 1, box[2] + 2, box[3] + 2)),
        boxed(lambda box: (box[0] - 0.1 * box[2], box[1] - 0.1 * box[3], 1.2 * box[2], 1.2 * box[3])),
        boxed(lambda box: (box[0], box[1], box[2], 1.5 * box[3])),  # boxes of what is hidden, too
    ],
    ids=["rounded", "a pixel around", "loose", "amodal"],
)
def test_boxes_that_are_rounded_or_loose_are_no_contradiction(change: Change) -> None:
    agreement = compare_masks_and_boxes(dataset(change))
    assert not agreement.differing
    assert not agreement.wrong


@pytest.mark.parametrize(
    ("change", "reading"),
    [
        (drawn(1 / WIDTH, 1 / HEIGHT), "the polygons are in 0 to 1"),
        (boxed(lambda b: (b[0] / WIDTH, b[1] / HEIGHT, b[2] / WIDTH, b[3] / HEIGHT)), "the boxes are in 0 to 1"),
        (boxed(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])), r"the boxes are \[x1, y1, x2, y2\]"),
        (boxed(lambda b: (b[0] + b[2] / 2, b[1] + b[3] / 2, b[2], b[3])), r"the boxes are \[centre x, centre y"),
        (drawn(1, 1, exchange=True), "x and y are exchanged"),
        (boxed(lambda b: (b[1], b[0], b[3], b[2])), "x and y are exchanged"),
        (boxed(lambda b: (b[0], HEIGHT - b[1] - b[3], b[2], b[3])), "y is counted from the bottom"),
        (drawn(0.5, 0.25), "multiply x by 2 and y by 4"),
    ],
    ids=["polygons 0-1", "boxes 0-1", "corners", "centre", "polygons yx", "boxes yx", "upside down", "resized"],
)
def test_a_file_that_cannot_be_meant_is_named(change: Change, reading: str) -> None:
    agreement = compare_masks_and_boxes(dataset(change))
    assert agreement.wrong
    assert re.search(reading, agreement.reading)


def test_polygons_and_boxes_in_shares_agree_and_cannot_be_meant() -> None:
    def both(one: Annotation) -> Annotation:
        small = drawn(1 / WIDTH, 1 / HEIGHT)(one)
        x, y, w, h = one.bbox
        return replace(small, bbox=(x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT))

    agreement = compare_masks_and_boxes(dataset(both))
    assert agreement.wrong
    assert "0 to 1" in agreement.reading


def test_polygons_in_shares_cannot_be_meant_without_boxes_either() -> None:
    nothing = boxed(lambda box: (0, 0, 0, 0))
    agreement = compare_masks_and_boxes(dataset(lambda a: nothing(drawn(1 / WIDTH, 1 / HEIGHT)(a))))
    assert agreement.wrong
    assert "0 to 1" in agreement.reading


def test_boxes_that_were_left_at_0_are_not_compared() -> None:
    agreement = compare_masks_and_boxes(dataset(boxed(lambda box: (0, 0, 0, 0))))
    assert (agreement.compared, agreement.differing, agreement.wrong) == (0, 0, False)


def test_masks_of_other_objects_are_wrong_without_a_reading() -> None:
    boxes = [a.bbox for a in dataset().records[0].annotations]
    agreement = compare_masks_and_boxes(dataset(lambda a: replace(a, bbox=boxes[-a.id])))
    assert agreement.wrong
    assert agreement.reading == ""
    assert len(agreement.examples) == 3


def test_a_few_that_differ_are_counted_and_shown() -> None:
    agreement = compare_masks_and_boxes(dataset(boxed(lambda b: (500, 400, 20, 20)), changed=3))
    assert not agreement.wrong
    assert agreement.differing in (2, 3)
    assert agreement.examples[0].startswith("annotation 1: bbox [500, 400, 20, 20], its mask lies in [")


def test_run_lengths_have_bounds_too() -> None:
    def coded(one: Annotation) -> Annotation:
        return replace(one, segmentation=one.rle(HEIGHT, WIDTH))

    assert not compare_masks_and_boxes(dataset(coded)).differing
    shifted = compare_masks_and_boxes(dataset(lambda a: boxed(lambda b: (b[2], b[3], b[0], b[1]))(coded(a))))
    assert shifted.wrong


def test_masks_without_a_pixel_are_counted() -> None:
    empty = mask_utils.encode(np.zeros((HEIGHT, WIDTH), np.uint8, order="F"))["counts"].decode()
    nothing = {"size": [HEIGHT, WIDTH], "counts": empty}
    agreement = compare_masks_and_boxes(dataset(lambda a: replace(a, segmentation=nothing), changed=4))
    assert (agreement.compared, agreement.without_pixel, agreement.differing) == (36, 4, 0)


@pytest.mark.parametrize("area", [0.5, 1e6])
def test_areas_that_are_no_mask_s_are_counted(area: float) -> None:
    agreement = compare_masks_and_boxes(dataset(lambda a: replace(a, area=area), changed=5))
    assert agreement.areas_differing == 5
    assert not agreement.wrong


def test_many_annotations_are_compared_in_parts() -> None:
    whole = compare_masks_and_boxes(dataset(boxed(lambda b: (500, 400, 20, 20)), changed=7))
    assert compare_masks_and_boxes(dataset(boxed(lambda b: (500, 400, 20, 20)), changed=7), chunk=3) == whole


@pytest.mark.parametrize(
    ("folder", "suffix"), [("coco_cc", ""), ("fruits_nuts", ""), ("nuclei_dsb", ""), ("nuclei_dsb", "_rle")]
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_data_agree(data_root: Path, folder: str, suffix: str, split: str) -> None:
    file = data_root / folder / f"annotations_{split}{suffix}.json"
    agreement = compare_masks_and_boxes(load_coco(folder, file, data_root / folder / split))
    assert (agreement.differing, agreement.areas_differing, agreement.without_pixel) == (0, 0, 0)
    assert not agreement.wrong
