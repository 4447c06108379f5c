"""COCO's `segmentation` in its three forms, checked once and decoded late.

A *polygon* is flat: x0, y0, x1, y1, ... in pixels. An instance may have several, the parts of an occluded
object. *RLE* is COCO's run-length code: runs of 0 and 1 in turn, column by column. A file holds it compressed
(text) or as a list of integers, which COCO uses for crowds; in memory it is always compressed.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_utils

from raytune_m2f.model import Edges

Rle = dict[str, Any]
Segmentation = tuple["array[float]", ...] | Rle
"""Polygons as packed arrays (a third of the memory of lists, and cheap to send to a worker), or an RLE."""

MIN_COORDINATES = 6
"""A polygon has three points at least."""

# Each number of a compressed RLE: characters with the "more follows" bit (P-o), then one without it (0-O).
_COMPRESSED = re.compile(r"(?:[P-o]{0,6}[0-O])+")


def parse_segmentation(value: object, height: int, width: int) -> Segmentation | None:
    """Check a `segmentation` of a file without decoding it.

    Returns:
        The segmentation, or None when there are polygons but none with three points or more: such instances
        are left out, and polygons of that kind beside valid ones too, as detectron2 does.

    Raises:
        ValueError: what is wrong with it.
    """
    match value:
        case {"counts": list(counts), "size": [int(rows), int(columns)]}:
            _check_size(rows, columns, height, width)
            return _compress(counts, height, width)
        case {"counts": str(counts), "size": [int(rows), int(columns)]}:
            _check_size(rows, columns, height, width)
            _check_runs(_decompress(counts).tolist(), height, width)
            return {"size": [height, width], "counts": counts}
        case [[*_], *_]:
            return _parse_polygons(value, height, width)
    raise ValueError(
        "segmentation must be a list of polygons [[x, y, x, y, ...], ...] or an RLE {size, counts}, "
        f"got {str(value)[:60]}"
    )


def to_rle(segmentation: Segmentation, height: int, width: int) -> Rle:
    """The segmentation as one compressed RLE {size, counts: text} for pycocotools; the size is the image's."""
    if isinstance(segmentation, dict):
        return segmentation
    merged = mask_utils.merge(mask_utils.frPyObjects(list(segmentation), height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def decode(rles: Sequence[Rle], height: int, width: int) -> npt.NDArray[np.uint8]:
    """The masks of many compressed RLEs: (N, H, W) of 0 and 1, each stored column by column as RLE is.

    As fast as pycocotools' decode or faster, and without its warning under numpy 2.
    """
    masks = np.zeros((len(rles), width * height), np.uint8)
    for mask, rle in zip(masks, rles, strict=True):
        ends = _decompress(rle["counts"]).cumsum().tolist()
        for start, end in zip(ends[::2], ends[1::2], strict=False):  # the last run may be of 0
            mask[start:end] = 1
    by_rows: npt.NDArray[np.uint8] = masks.reshape(-1, width, height).transpose(0, 2, 1)
    return by_rows


def encode_edges(edges: Sequence[Edges], size: tuple[int, int]) -> list[Rle]:
    """Masks of an image of (height, width), given by their edges, as run lengths."""
    height, width = size
    found = []
    for places in edges:
        runs = np.diff(places, prepend=0, append=height * width).tolist()
        if len(runs) > 1 and runs[-1] == 0:
            runs.pop()
        rle: Rle = mask_utils.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        found.append({"size": [height, width], "counts": str(rle["counts"], "ascii")})
    return found


def _parse_polygons(polygons: Sequence[Any], height: int, width: int) -> Segmentation | None:
    limit = max(height, width)
    valid = []
    for polygon in polygons:
        try:
            points = array("d", polygon)
        except (TypeError, OverflowError):
            raise ValueError("segmentation: a polygon must be a list of numbers x, y, x, y, ...") from None
        if len(points) % 2 or len(points) < MIN_COORDINATES:
            continue
        # Rasterising takes memory with a polygon's perimeter, so nonsense must not get that far.
        if not math.isfinite(sum(points)) or min(points) < -limit or max(points) > 2 * limit:
            raise ValueError(f"segmentation: a polygon lies far outside the image of {width} x {height} pixels")
        valid.append(points)
    return tuple(valid) or None


def _check_size(rows: int, columns: int, height: int, width: int) -> None:
    if (rows, columns) != (height, width):
        raise ValueError(f"segmentation: size [{rows}, {columns}] but the image is [{height}, {width}] (height, width)")


def _compress(counts: list[Any], height: int, width: int) -> Rle:
    if not all(type(count) is int for count in counts):
        raise ValueError("segmentation: RLE counts must be integers")
    _check_runs(counts, height, width)
    rle: Rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def _decompress(counts: str) -> npt.NDArray[np.int64]:
    """The run lengths of a compressed RLE: 5 bits a character, low ones first; from the fourth on, each is
    the difference to the run two before (pycocotools, common/maskApi.c, rleFrString)."""
    if not _COMPRESSED.fullmatch(counts):
        raise ValueError("segmentation: RLE counts is not a compressed RLE")
    bits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(bits < 32)
    first = np.concatenate([[0], last[:-1] + 1])
    place = 5 * (np.arange(len(bits)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((bits & 31) << place, first)
    runs -= np.where(bits[last] & 16, 1 << (place[last] + 5), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs


def _check_runs(runs: list[int], height: int, width: int) -> None:
    # pycocotools does not see runs that are too short and leaves the rest of its mask uninitialised.
    if not runs or min(runs) < 0 or sum(runs) != height * width:
        raise ValueError(f"segmentation: the RLE's runs do not cover the image of {width} x {height} pixels")
