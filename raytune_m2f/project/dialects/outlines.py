"""Polygons and masks: check, draw, scale, rotate. Coordinates are pixels; x to the right, y downwards."""

from __future__ import annotations

import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from raytune_m2f.data.masks import MIN_COORDINATES, decode, parse_segmentation, to_rle
from raytune_m2f.project.dialects.values import LARGEST, number
from raytune_m2f.project.export import Polygons

Mask = npt.NDArray[np.bool_]
"""(H, W)."""
Shape = Polygons | dict[str, Any]
"""`Item.segmentation` where there is one; run lengths are compressed."""
CORNERS = 64
"""Of the polygon that stands for an ellipse; its area is 0.2 % smaller."""
MOST_CONTOURS = 50
"""Of an object whose holes are looked for."""
NEARER = 2  # times: than to the area with the hole
MOST_PIXELS = 400_000_000
"""Of a mask; the largest image that is read has less."""


def polygon(values: Iterable[object]) -> tuple[float, ...] | None:
    """x, y, x, y, ... as numbers; None if it is not that, or has fewer than three points."""
    given = tuple(values)
    if len(given) % 2 or len(given) < MIN_COORDINATES:
        return None
    numbers = tuple(value if type(value) is float and abs(value) < LARGEST else number(value) for value in given)
    return None if None in numbers else cast("tuple[float, ...]", numbers)


def ellipse(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> tuple[float, ...]:
    """The outline of an ellipse around (x, y), turned clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    angles = [2 * math.pi * corner / CORNERS for corner in range(CORNERS)]
    flat = [(rx * math.cos(angle), ry * math.sin(angle)) for angle in angles]
    return tuple(value for u, v in flat for value in (x + cos * u - sin * v, y + sin * u + cos * v))


def rectangle(x: float, y: float, width: float, height: float) -> tuple[float, ...]:
    """The outline of a rectangle with its left upper corner at (x, y)."""
    return (x, y, x + width, y, x + width, y + height, x, y + height)


def encode(mask: Mask) -> dict[str, Any]:
    """A mask as compressed run lengths."""
    rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def paste(crop: Mask, left: int, top: int, height: int, width: int) -> Mask:
    """A mask of an image of (height, width) that has `crop` at (left, top); what lies outside is cut off."""
    mask = np.zeros((height, width), bool)
    rows, columns = slice(max(top, 0), max(top + crop.shape[0], 0)), slice(max(left, 0), max(left + crop.shape[1], 0))
    inside = mask[rows, columns]
    inside |= crop[max(-top, 0) :, max(-left, 0) :][: inside.shape[0], : inside.shape[1]]
    return mask


def from_runs(counts: Sequence[int], height: int, width: int) -> Mask | None:
    """The mask of run lengths of 0 and 1 in turn, row by row; None if they do not fill it."""
    if not counts or min(counts) < 0 or height * width > MOST_PIXELS or sum(counts) != height * width:
        return None
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(height, width)


def checked_rle(value: dict[str, Any]) -> dict[str, Any] | None:
    """Run lengths as COCO has them, compressed; None if they are not that."""
    size = value.get("size")
    if not isinstance(size, list) or len(size) != 2 or not all(type(side) is int and side > 0 for side in size):
        return None
    if size[0] * size[1] > MOST_PIXELS:
        return None
    counts = value.get("counts")
    if isinstance(counts, list) and all(type(run) is float and run.is_integer() for run in counts):
        counts = [int(run) for run in counts]
    try:
        rle = parse_segmentation({"size": size, "counts": counts}, *size)
    except (ValueError, OverflowError):
        return None
    return rle if isinstance(rle, dict) else None


def united(shapes: Sequence[Shape], size: tuple[float, float] | None) -> Shape:
    """One shape of several; polygons stay polygons, beside a mask they are drawn on it.

    Args:
        size: width and height of the image, where known.
    """
    rles = [shape for shape in shapes if isinstance(shape, dict)]
    polygons = tuple(part for shape in shapes if not isinstance(shape, dict) for part in shape)
    if not rles:
        return polygons
    height, width = rles[0]["size"]
    if polygons:
        rles.append(to_rle(tuple(array("d", part) for part in polygons), height, width))
    same = [rle for rle in rles if rle["size"] == [height, width]]
    return encode(np.asarray(decode(same, height, width).any(axis=0), bool)) if len(rles) > 1 else rles[0]


def without_holes(polygons: Polygons, area: float | None, size: tuple[int, int]) -> dict[str, Any] | None:
    """The mask of an object whose inner outlines are holes, as tools write them that list all contours of a mask.

    In COCO such an outline is a part of the object. It is a hole where the object's own area leaves it out: where that
    is nearer to the area of what an odd number of outlines cover than to that of what any covers.

    Returns:
        The mask; None if no outline lies inside another, or the area does not say so.
    """
    boxes = [bounds((part,)) for part in polygons]
    inside = any(
        a[0] < b[0] and a[1] < b[1] and a[2] > b[2] and a[3] > b[3] for a, b in itertools.permutations(boxes, 2)
    )
    width, height = size
    if area is None or not inside or width * height > MOST_PIXELS or len(polygons) > MOST_CONTOURS:
        return None
    if max(max(map(abs, box)) for box in boxes) > 2 * max(size):
        return None
    rles = [to_rle((array("d", part),), height, width) for part in polygons]
    covered = decode(rles, height, width).sum(axis=0, dtype=np.int64)
    odd = np.asarray(covered % 2 == 1, bool)
    with_hole, whole = int(odd.sum()), int((covered > 0).sum())
    return encode(odd) if NEARER * abs(area - with_hole) < abs(area - whole) else None


def mask_of(rle: dict[str, Any]) -> Mask:
    """(H, W)."""
    height, width = rle["size"]
    return np.asarray(decode([rle], height, width)[0], bool)


def scaled(shape: Shape, x: float, y: float, size: tuple[int, int]) -> Shape:
    """The shape on an image that is x times as wide and y times as high, of `size` (width, height)."""
    if not isinstance(shape, dict):
        return tuple(tuple(value * (y if place % 2 else x) for place, value in enumerate(part)) for part in shape)
    mask = mask_of(shape)
    rows = ((np.arange(size[1]) + 0.5) * mask.shape[0] / size[1]).astype(int)
    columns = ((np.arange(size[0]) + 0.5) * mask.shape[1] / size[0]).astype(int)
    return encode(mask[rows][:, columns])


@dataclass(frozen=True)
class Turn:
    """What EXIF's orientation does to an image that is stored lying: to points in (width, height), and to masks."""

    point: Callable[[float, float, float, float], tuple[float, float]]
    mask: Callable[[Mask], Mask]


TURNS = {
    5: Turn(lambda x, y, width, height: (y, x), lambda mask: mask.T),
    6: Turn(lambda x, y, width, height: (height - y, x), lambda mask: np.rot90(mask, -1)),
    7: Turn(lambda x, y, width, height: (height - y, width - x), lambda mask: np.rot90(mask, 2).T),
    8: Turn(lambda x, y, width, height: (y, width - x), lambda mask: np.rot90(mask)),
}
"""The orientations that exchange width and height, by their number in EXIF (CIPA DC-008, tag 274)."""


def turned(shape: Shape, orientation: int, width: float, height: float) -> Shape:
    """The shape after the turn that EXIF asks for; it was drawn on the stored image of (width, height)."""
    turn = TURNS[orientation]
    if isinstance(shape, dict):
        return encode(turn.mask(mask_of(shape)))
    return tuple(
        tuple(value for x, y in zip(part[::2], part[1::2], strict=True) for value in turn.point(x, y, width, height))
        for part in shape
    )


def bounds(shape: Shape) -> tuple[float, float, float, float]:
    """Left, top, right, bottom; of run lengths, those of their image."""
    if isinstance(shape, dict):
        return 0.0, 0.0, float(shape["size"][1]), float(shape["size"][0])
    xs, ys = [value for part in shape for value in part[::2]], [value for part in shape for value in part[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def is_empty(shape: Shape) -> bool:
    """Whether run lengths hold no pixel."""
    return isinstance(shape, dict) and mask_utils.area(shape) == 0
