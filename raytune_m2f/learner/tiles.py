"""Overlapping windows of a large image (TEST.TILES), and one instance again of what several windows show of it.

Slicing as in SAHI (Akyon et al. 2022, Slicing Aided Hyper Inference). Its merging compares whole masks (by their union,
or by the smaller one), which two halves of an object that is larger than the windows' overlap do not survive: they have
little in common. Here two masks are compared where both windows look.

Pixels are those of the original image, if nothing else is said.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from raytune_m2f.data.masks import Rle

Box = tuple[int, int, int, int]
"""Left, top, right and bottom; the last two lie outside."""
BORDER = 4
"""A mask that comes so close to an inner border of its window is cut by it: one cell of the mask features [pixels of
the resized image]."""


@dataclass(frozen=True)
class Window:
    """A window of an image.

    Attributes:
        top, left, size: in the resized image; `size` is (height, width).
        box: the pixels that a mask of this window can set.
        inner: a mask that leaves this box is cut by the window's border; beyond the image where that is the border.
    """

    top: int
    left: int
    size: tuple[int, int]
    box: Box
    inner: tuple[float, float, float, float]


def windows_of(resized: tuple[int, int], original: tuple[int, int], *, size: int, overlap: float) -> list[Window]:
    """The windows of a resized image, line by line; one, if all of it fits into a window.

    Args:
        resized, original: (height, width) of the image in the network and of its file.
        size: side of a window, in pixels of the resized image.
        overlap: of two neighbours at least, as a part of `size`.
    """
    rows, columns = ([*_along(*sizes, size, overlap)] for sizes in zip(resized, original, strict=True))
    return [
        Window(y, x, (height, width), (low_x, low_y, high_x, high_y), (in_low_x, in_low_y, in_high_x, in_high_y))
        for y, height, low_y, high_y, in_low_y, in_high_y in rows
        for x, width, low_x, high_x, in_low_x, in_high_x in columns
    ]


def _along(resized: int, original: int, size: int, overlap: float) -> Iterator[tuple[int, int, int, int, float, float]]:
    """Along one axis: start and length in the resized image, and the first and last of `box` and of `inner`."""
    length = min(size, resized)
    step = max(1, math.floor(size * (1 - overlap) + 1e-6))  # of 60 pixels with 1/3 it is 40
    count = 1 + math.ceil((resized - length) / step)
    scale = original / resized
    for number in range(count):
        start = round(number * (resized - length) / max(1, count - 1))  # at even distances
        stop = start + length
        # pixel p reads at (p + 0.5) / scale - 0.5, from the cells on both sides
        low = max(0, math.floor((start - 0.5) * scale - 0.5) + 1)
        high = min(original, math.ceil((stop + 0.5) * scale - 0.5))
        inner_low = -math.inf if start == 0 else (start + BORDER) * scale
        inner_high = math.inf if stop == resized else (stop - BORDER) * scale
        yield start, length, low, high, inner_low, inner_high


def merged(
    windows: Sequence[Window],
    numbers: Sequence[int],
    masks: Sequence[Rle],
    labels: Sequence[int],
    scores: Sequence[float],
    threshold: float,
) -> list[tuple[int, Rle]]:
    """Non-maximum suppression among the instances of different windows: who is best, and the mask, best first.

    Two instances of a category show the same object if, where both their windows look, intersection over union of
    their masks is at least `threshold`: their union is one mask. What else a window's border cuts is dropped if that
    part of it lies in the mask of a better one from another window. Instances of one window are not compared.

    Args:
        numbers: the window of each instance; labels and scores likewise.
        masks: at the size of the image.
    """
    if not masks:
        return []
    same, within = _related(windows, numbers, masks, labels, threshold)
    cut = _cut(windows, numbers, masks)
    taken = [False] * len(masks)
    found = []
    for best in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if not taken[best]:
            group = _group(best, same, numbers, scores, taken)
            for i in (i for member in group for i in within[member] if cut[i]):
                taken[i] = True
            found.append((best, _union([masks[i] for i in group])))
    return found


def _related(
    windows: Sequence[Window], numbers: Sequence[int], masks: Sequence[Rle], labels: Sequence[int], threshold: float
) -> tuple[list[list[int]], list[list[int]]]:
    """Of each instance those of other windows that show the same object, and those that lie within it."""
    same: list[list[int]] = [[] for _ in masks]
    within: list[list[int]] = [[] for _ in masks]
    members: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, place in enumerate(zip(numbers, labels, strict=True)):
        members[place].append(i)
    areas = np.array([mask_utils.area(mask) for mask in masks], np.float64)
    height, width = masks[0]["size"]
    views = [_view(window.box, height, width) for window in windows]
    for a, b in _overlapping(windows):
        for label in sorted({label for number, label in members if number == a}):
            ours, theirs = members[a, label], members.get((b, label), [])
            if not theirs:
                continue
            common, here, there = (
                _shares([masks[i] for i in first], second) * areas[first][:, None]
                for first, second in (
                    (ours, [masks[i] for i in theirs]),
                    (ours, views[b : b + 1]),
                    (theirs, views[a : a + 1]),
                )
            )
            union = here + there.T - common
            for i, j in np.argwhere((common > 0) & (common >= threshold * union)).tolist():
                same[ours[i]].append(theirs[j])
                same[theirs[j]].append(ours[i])
            for i, j in np.argwhere((common > 0) & (common >= threshold * areas[ours][:, None])).tolist():
                within[theirs[j]].append(ours[i])
            for i, j in np.argwhere((common > 0) & (common >= threshold * areas[theirs][None])).tolist():
                within[ours[i]].append(theirs[j])
    return same, within


def _shares(first: Sequence[Rle], second: Sequence[Rle]) -> NDArray[np.float64]:
    """(A, B): the part of each first mask that lies in each second one: COCO's IoU with a crowd."""
    shares: NDArray[np.float64] = mask_utils.iou(list(first), list(second), [1] * len(second))
    return shares


def _view(box: Box, height: int, width: int) -> Rle:
    """The pixels of a window as a mask."""
    left, top, right, bottom = box
    (view,) = mask_utils.frPyObjects(np.array([[left, top, right - left, bottom - top]], np.float64), height, width)
    return dict(view)


def _group(
    best: int, same: Sequence[Sequence[int]], numbers: Sequence[int], scores: Sequence[float], taken: list[bool]
) -> list[int]:
    """The instances that show the object of `best`, one of each window; all that do so are taken."""
    group, seen, waiting = [best], {numbers[best]}, deque([best])
    taken[best] = True
    while waiting:
        for i in sorted(same[waiting.popleft()], key=lambda i: -scores[i]):
            if not taken[i]:
                taken[i] = True
                if numbers[i] not in seen:
                    seen.add(numbers[i])
                    group.append(i)
                    waiting.append(i)
    return group


def _overlapping(windows: Sequence[Window]) -> Iterator[tuple[int, int]]:
    for b, second in enumerate(windows):
        for a, first in enumerate(windows[:b]):
            if all(min(first.box[k + 2], second.box[k + 2]) > max(first.box[k], second.box[k]) for k in (0, 1)):
                yield a, b


def _cut(windows: Sequence[Window], numbers: Sequence[int], masks: Sequence[Rle]) -> list[bool]:
    """Of each instance, whether its mask comes to an inner border of its window."""
    found = []
    for number, (x, y, w, h) in zip(numbers, mask_utils.toBbox(list(masks)).tolist(), strict=True):
        left, top, right, bottom = windows[number].inner
        found.append(x < left or y < top or x + w > right or y + h > bottom)
    return found


def _union(masks: list[Rle]) -> Rle:
    if len(masks) == 1:
        return masks[0]
    whole = mask_utils.merge(masks)
    return {"size": list(whole["size"]), "counts": str(whole["counts"], "ascii")}
