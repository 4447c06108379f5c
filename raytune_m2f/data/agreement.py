"""Masks against the boxes of their own annotations: a file whose two accounts of an object differ cannot be meant.

Boxes are compared with the bounds of the masks; nothing is rasterised, so 100,000 annotations take a fraction of a
second. Arrays of boxes are (N, 4), float64: left, top, right, bottom in pixels.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from raytune_m2f.data.records import Annotation, CocoDataset

Boxes = NDArray[np.float64]
Bools = NDArray[np.bool_]

AT_ONCE = 20_000  # annotations; bounds the memory
RLES_AT_ONCE = 200  # pycocotools with numpy 2 fails on many masks in a call
ROUNDED = 2.0  # pixels a side: rounding, and boxes that end at the last pixel or behind it
ALIKE, CLOSE = 0.5, 0.9  # IoU of boxes that do not contradict each other, that say the same
MOST = 0.8  # share of the annotations that another reading must explain
ROUGHLY = 0.01  # so far outside of 0 to 1 numbers may be that are shares of a side
RESIZED = 1.2  # factor from which on polygons are taken to be of an image of another size
LARGER, SMALLER = 2.0, 0.01  # an area beyond these shares of the mask's bounds is not the mask's
SHOWN = 3


@dataclass(frozen=True)
class Agreement:
    """How the masks of a data set and their boxes agree.

    Attributes:
        compared: annotations with a mask of a pixel or more, and a box that is no point.
        differing: of these, those whose mask lies elsewhere than the box says.
        without_pixel: annotations whose run lengths hold no pixel.
        areas_differing: annotations whose `area` cannot be that of their mask.
        reading: how boxes or polygons would have to be read to agree, in words; empty where they do, or nobody knows.
        wrong: whether the file cannot be meant as it is: most masks and boxes differ.
        examples: the first that differ, with both boxes.
    """

    compared: int
    differing: int
    without_pixel: int
    areas_differing: int
    reading: str
    wrong: bool
    examples: tuple[str, ...]


def masks_and_boxes(dataset: CocoDataset) -> Agreement:
    """Compare all annotations of a data set."""
    annotations = [a for record in dataset.records for a in record.annotations]
    counts = [len(record.annotations) for record in dataset.records]
    sizes = np.repeat(
        np.array([(r.width, r.height) for r in dataset.records], np.float64).reshape(-1, 2), counts, axis=0
    )
    if not annotations:
        return Agreement(0, 0, 0, 0, "", False, ())
    masks = np.concatenate(list(_bounds(annotations)))
    boxes = np.array([a.bbox for a in annotations], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    seen = np.asarray((masks[:, 2:] > masks[:, :2]).any(1))
    compared = np.asarray(seen & (boxes[:, 2:] > boxes[:, :2]).any(1))  # some tools leave boxes at 0
    differs = np.asarray(compared & ~_agree(masks, boxes, ALIKE))
    if _inside_one_pixel(masks[seen], sizes[seen]).sum() > MOST * seen.sum():
        reading, wrong = "the polygons are in 0 to 1; multiply them by the image's width and height", True
    else:
        reading, wrong = _reading(masks[compared], boxes[compared], sizes[compared], int(differs.sum()))
    return Agreement(
        compared=int(compared.sum()),
        differing=int(differs.sum()),
        without_pixel=int((~seen).sum()),
        areas_differing=int((seen & _other_area(masks, np.array([a.area for a in annotations]))).sum()),
        reading=reading,
        wrong=wrong,
        examples=tuple(
            f"annotation {annotations[i].id}: bbox {_xywh(boxes[i])}, its mask lies in {_xywh(masks[i])}"
            for i in np.flatnonzero(differs)[:SHOWN]
        ),
    )


def _reading(masks: Boxes, boxes: Boxes, sizes: Boxes, differing: int) -> tuple[str, bool]:
    """Another reading under which masks and boxes agree, and whether the file as it is cannot be meant."""
    if not len(masks):
        return "", False
    if _agree(masks, boxes, CLOSE).mean() >= 1 / 2 and differing <= len(masks) / 2:
        return "", False
    for words, read in READINGS:
        ours, theirs = read(masks, boxes, sizes)
        if _agree(ours, theirs, CLOSE).mean() >= MOST:
            return words, True
    if words := _scaled(masks, boxes):
        return words, True
    return "", differing > len(masks) / 2


def _other_area(masks: Boxes, areas: NDArray[np.float64]) -> Bools:
    """Areas above that of the mask's bounds, or next to nothing of it; some tools give the box's, which is as COCO."""
    most = np.maximum(masks[:, 2:] - masks[:, :2], ROUNDED).prod(1)
    return np.asarray((areas > LARGER * most) | (areas < SMALLER * most))


def _inside_one_pixel(masks: Boxes, sizes: Boxes) -> Bools:
    return np.asarray((masks >= -ROUGHLY).all(1) & (masks <= 1 + ROUGHLY).all(1) & (sizes > 2).all(1))


def _scaled(masks: Boxes, boxes: Boxes) -> str:
    """Polygons that were drawn on the images at another size."""
    extent, wanted = masks[:, 2:] - masks[:, :2], boxes[:, 2:] - boxes[:, :2]
    clear = (extent > ROUNDED).all(1) & (wanted > ROUNDED).all(1)
    if not clear.any():
        return ""
    x, y = np.median(wanted[clear] / extent[clear], axis=0)
    resized = max(x, 1 / x, y, 1 / y) > RESIZED
    if not resized or _agree(masks * [x, y, x, y], boxes, CLOSE).mean() < MOST:
        return ""
    return f"the masks are of images of another size; multiply x by {x:.4g} and y by {y:.4g}, or mend the boxes"


def _corners(masks: Boxes, boxes: Boxes, sizes: Boxes) -> tuple[Boxes, Boxes]:
    return masks, np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _centred(masks: Boxes, boxes: Boxes, sizes: Boxes) -> tuple[Boxes, Boxes]:
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return masks, boxes - np.concatenate([half, half], axis=1)


def _shares(masks: Boxes, boxes: Boxes, sizes: Boxes) -> tuple[Boxes, Boxes]:
    return masks, boxes * np.concatenate([sizes, sizes], axis=1)


def _exchanged(masks: Boxes, boxes: Boxes, sizes: Boxes) -> tuple[Boxes, Boxes]:
    return masks[:, [1, 0, 3, 2]], boxes


def _upside_down(masks: Boxes, boxes: Boxes, sizes: Boxes) -> tuple[Boxes, Boxes]:
    turned = masks.copy()
    turned[:, [1, 3]] = sizes[:, 1:] - masks[:, [3, 1]]
    return turned, boxes


READINGS: tuple[tuple[str, Callable[[Boxes, Boxes, Boxes], tuple[Boxes, Boxes]]], ...] = (
    ("the boxes are [x1, y1, x2, y2]; COCO's are [x, y, width, height]", _corners),
    ("the boxes are [centre x, centre y, width, height]; COCO's begin with the left upper corner", _centred),
    ("the boxes are in 0 to 1; multiply them by the image's width and height", _shares),
    ("x and y are exchanged, in the masks or in the boxes", _exchanged),
    ("y is counted from the bottom, in the masks or in the boxes", _upside_down),
)


def _agree(first: Boxes, second: Boxes, iou: float) -> Bools:
    """Whether boxes overlap by `iou`, or their sides are as near as rounding brings them."""
    near = (np.abs(first - second) <= ROUNDED).all(1)
    overlap = np.clip(np.minimum(first, second)[:, 2:] - np.maximum(first, second)[:, :2], 0, None).prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - overlap
    agree: Bools = near | (overlap >= iou * np.maximum(union, 1e-12))
    return agree


def _bounds(annotations: Sequence[Annotation]) -> Iterator[Boxes]:
    """The bounds of all masks, in parts."""
    for start in range(0, len(annotations), AT_ONCE):
        part = annotations[start : start + AT_ONCE]
        bounds = np.zeros((len(part), 4))
        coded = [i for i, a in enumerate(part) if isinstance(a.segmentation, dict)]
        drawn = [i for i, a in enumerate(part) if not isinstance(a.segmentation, dict)]
        if drawn:
            bounds[drawn] = _polygon_bounds([part[i] for i in drawn])
        for first in range(0, len(coded), RLES_AT_ONCE):
            some = coded[first : first + RLES_AT_ONCE]
            bounds[some] = mask_utils.toBbox([part[i].segmentation for i in some])
        bounds[coded, 2:] += bounds[coded, :2]
        yield bounds


def _polygon_bounds(annotations: Sequence[Annotation]) -> Boxes:
    """Of annotations that are polygons, all polygons of each together."""
    numbers, starts = array("d"), []
    for annotation in annotations:
        starts.append(len(numbers) // 2)
        for polygon in annotation.segmentation:
            numbers.extend(polygon)  # type: ignore[arg-type]  # not a dict here
    points = np.frombuffer(numbers).reshape(-1, 2)
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)


def _xywh(box: NDArray[np.float64]) -> str:
    left, top, right, bottom = box.tolist()
    return "[" + ", ".join(f"{value:.4g}" for value in (left, top, right - left, bottom - top)) + "]"
