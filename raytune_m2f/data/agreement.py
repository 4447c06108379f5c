"""Compare the mask of every annotation with its bounding box: two contradicting descriptions reveal a broken file.

Boxes are compared with the bounds of the masks; nothing is rasterised, so 100,000 annotations take a fraction of a
second. Arrays of boxes are (N, 4) float64: left, top, right, bottom in pixels.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from raytune_m2f.data.records import Annotation, CocoDataset

Boxes = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK = 20_000  # annotations; bounds the memory
RLES_AT_ONCE = 200  # pycocotools with numpy 2 fails on many masks in a call
ROUNDED = 2.0  # pixels a side: rounding, and boxes that end at the last pixel or behind it
ALIKE, CLOSE = 0.5, 0.9  # IoU of boxes that do not contradict each other, that say the same
MOST = 0.8  # share of the annotations that another reading must explain
ROUGHLY = 0.01  # tolerance around [0, 1] for coordinates that are shares of a side
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
        reading: another convention for boxes or polygons, under which they agree; empty if they do, or none fits.
        wrong: the file cannot be used as it is: most masks and boxes differ.
        examples: the first that differ, with both boxes.
    """

    compared: int = 0
    differing: int = 0
    without_pixel: int = 0
    areas_differing: int = 0
    reading: str = ""
    wrong: bool = False
    examples: tuple[str, ...] = ()


def compare_masks_and_boxes(dataset: CocoDataset, chunk: int = CHUNK) -> Agreement:
    """Compare all annotations of a data set, crowds included; `chunk` of them at a time are unpacked."""
    annotations = [a for record in dataset.records for a in record.annotations]
    if not annotations:
        return Agreement()
    sizes = np.array([(r.width, r.height) for r in dataset.records for _ in r.annotations], np.float64)
    masks = np.concatenate(list(mask_bounds(annotations, chunk)))
    boxes = np.array([a.bbox for a in annotations], np.float64)
    boxes[:, 2:] += boxes[:, :2]
    visible = (masks[:, 2:] > masks[:, :2]).any(1)
    compared = visible & (boxes[:, 2:] > boxes[:, :2]).any(1)  # some tools leave boxes at 0
    differs = compared & ~_agree(masks, boxes, ALIKE)
    if _in_unit_square(masks[visible], sizes[visible]).sum() > MOST * visible.sum():
        reading, wrong = "the polygons are in 0 to 1; multiply them by the image's width and height", True
    else:
        reading, wrong = _find_reading(masks[compared], boxes[compared], sizes[compared], int(differs.sum()))
    return Agreement(
        compared=int(compared.sum()),
        differing=int(differs.sum()),
        without_pixel=int((~visible).sum()),
        areas_differing=int((visible & _impossible_area(masks, np.array([a.area for a in annotations]))).sum()),
        reading=reading,
        wrong=wrong,
        examples=tuple(
            f"annotation {annotations[i].id}: bbox {_xywh(boxes[i])}, its mask lies in {_xywh(masks[i])}"
            for i in np.flatnonzero(differs)[:SHOWN]
        ),
    )


def _find_reading(masks: Boxes, boxes: Boxes, sizes: Boxes, differing: int) -> tuple[str, bool]:
    """`Agreement.reading` and `Agreement.wrong`."""
    if not len(masks) or (_agree(masks, boxes, CLOSE).mean() >= 1 / 2 and differing <= len(masks) / 2):
        return "", False
    for words, read_masks, read_boxes in _readings(masks, boxes, sizes):
        if _agree(read_masks, read_boxes, CLOSE).mean() >= MOST:
            return words, True
    words = _find_scale(masks, boxes)
    return words, bool(words) or differing > len(masks) / 2


def _readings(masks: Boxes, boxes: Boxes, sizes: Boxes) -> Iterator[tuple[str, Boxes, Boxes]]:
    """Conventions other than COCO's: in words, and the masks' bounds and the boxes under it."""
    extent = boxes[:, 2:] - boxes[:, :2]
    words = "the boxes are [x1, y1, x2, y2]; COCO's are [x, y, width, height]"
    yield words, masks, np.hstack([boxes[:, :2], extent])
    words = "the boxes are [centre x, centre y, width, height]; COCO's begin with the left upper corner"
    yield words, masks, boxes - np.hstack([extent, extent]) / 2
    words = "the boxes are in 0 to 1; multiply them by the image's width and height"
    yield words, masks, boxes * np.hstack([sizes, sizes])
    yield "x and y are exchanged, in the masks or in the boxes", masks[:, [1, 0, 3, 2]], boxes
    flipped = masks.copy()
    flipped[:, [1, 3]] = sizes[:, 1:] - masks[:, [3, 1]]
    yield "y is counted from the bottom, in the masks or in the boxes", flipped, boxes


def _find_scale(masks: Boxes, boxes: Boxes) -> str:
    """Whether the polygons were drawn on the images at another size; in words, empty if not."""
    extent, wanted = masks[:, 2:] - masks[:, :2], boxes[:, 2:] - boxes[:, :2]
    clear = (extent > ROUNDED).all(1) & (wanted > ROUNDED).all(1)
    if not clear.any():
        return ""
    x, y = np.median(wanted[clear] / extent[clear], axis=0)
    resized = max(x, 1 / x, y, 1 / y) > RESIZED
    if not resized or _agree(masks * [x, y, x, y], boxes, CLOSE).mean() < MOST:
        return ""
    return f"the masks are of images of another size; multiply x by {x:.4g} and y by {y:.4g}, or correct the boxes"


def _impossible_area(masks: Boxes, areas: NDArray[np.float64]) -> Bools:
    """Areas above that of the mask's bounds, or next to nothing of it; some tools give the box's, as COCO allows."""
    most = np.maximum(masks[:, 2:] - masks[:, :2], ROUNDED).prod(1)
    return np.asarray((areas > LARGER * most) | (areas < SMALLER * most))


def _in_unit_square(masks: Boxes, sizes: Boxes) -> Bools:
    return np.asarray((masks >= -ROUGHLY).all(1) & (masks <= 1 + ROUGHLY).all(1) & (sizes > 2).all(1))


def _agree(first: Boxes, second: Boxes, iou: float) -> Bools:
    """Whether boxes overlap by `iou`, or their sides are as near as rounding brings them."""
    near = (np.abs(first - second) <= ROUNDED).all(1)
    overlap = np.clip(np.minimum(first, second)[:, 2:] - np.maximum(first, second)[:, :2], 0, None).prod(1)
    union = (first[:, 2:] - first[:, :2]).prod(1) + (second[:, 2:] - second[:, :2]).prod(1) - overlap
    return np.asarray(near | (overlap >= iou * np.maximum(union, 1e-12)))


def mask_bounds(annotations: Sequence[Annotation], chunk: int) -> Iterator[Boxes]:
    """The bounds of all masks, `chunk` at a time."""
    for start in range(0, len(annotations), chunk):
        segmentations = [a.segmentation for a in annotations[start : start + chunk]]
        bounds = np.zeros((len(segmentations), 4))
        polygons = {i: s for i, s in enumerate(segmentations) if not isinstance(s, dict)}
        if polygons:
            bounds[list(polygons)] = _polygon_bounds(list(polygons.values()))
        rles = [i for i in range(len(segmentations)) if i not in polygons]
        for first in range(0, len(rles), RLES_AT_ONCE):
            part = rles[first : first + RLES_AT_ONCE]
            bounds[part] = mask_utils.toBbox([segmentations[i] for i in part])
        bounds[rles, 2:] += bounds[rles, :2]
        yield bounds


def _polygon_bounds(segmentations: Sequence[tuple[array[float], ...]]) -> Boxes:
    """For each instance the bounds of all its polygons together."""
    numbers, starts = array("d"), []
    for polygons in segmentations:
        starts.append(len(numbers) // 2)
        for polygon in polygons:
            numbers.extend(polygon)
    points = np.frombuffer(numbers).reshape(-1, 2)
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)


def _xywh(box: NDArray[np.float64]) -> str:
    left, top, right, bottom = box.tolist()
    return "[" + ", ".join(f"{value:.4g}" for value in (left, top, right - left, bottom - top)) + "]"
