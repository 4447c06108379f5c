"""Overlapping windows of a large image (TEST.TILES), and one instance again of what several windows show of it.

Slicing as in SAHI (Akyon et al. 2022, Slicing Aided Hyper Inference). Its merging compares whole masks (by their union,
or by the smaller one), which two halves of an object that is larger than the windows' overlap do not survive: they have
little in common. Here two masks are compared where both windows look.

Pixels are those of the original image, if nothing else is said.
"""

from __future__ import annotations

import math
from collections import deque
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
    step = max(1, int(size * (1 - overlap)))
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
    members = [[i for i, number in enumerate(numbers) if number == window] for window in range(len(windows))]
    same: list[list[int]] = [[] for _ in masks]
    within: list[list[int]] = [[] for _ in masks]
    cut = _cut(windows, numbers, masks)
    for a, b in _overlapping(windows):
        for label in {labels[i] for i in members[a]} & {labels[i] for i in members[b]}:
            ours, theirs = ([i for i in members[w] if labels[i] == label] for w in (a, b))
            agree, inside, outside = _compare(
                [masks[i] for i in ours], windows[a], [masks[i] for i in theirs], windows[b]
            )
            for i, j in np.argwhere(agree >= threshold).tolist():
                same[ours[i]].append(theirs[j])
                same[theirs[j]].append(ours[i])
            for i, j in np.argwhere(inside >= threshold).tolist():  # ours in theirs
                within[theirs[j]].append(ours[i])
            for i, j in np.argwhere(outside >= threshold).tolist():
                within[ours[i]].append(theirs[j])
    groups = []
    taken = [False] * len(masks)
    for best in sorted(range(len(masks)), key=lambda i: -scores[i]):
        if taken[best]:
            continue
        group = _group(best, same, numbers, scores, taken)
        for i in (i for member in group for i in within[member] if cut[i]):
            taken[i] = True
        groups.append((best, _union([masks[i] for i in group])))
    return groups


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


def _compare(
    ours: Sequence[Rle], our_window: Window, theirs: Sequence[Rle], their_window: Window
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Masks of two windows, (A, B) each: the intersection of the two as a part of their union where both windows look,
    and as a part of either one."""
    height, width = ours[0]["size"]
    area = np.array([mask_utils.area(mask) for mask in ours], np.float64)
    ones = [1] * len(theirs)
    common = mask_utils.iou(list(ours), list(theirs), ones) * area[:, None]  # with crowds, a part of the first
    here = mask_utils.iou(list(ours), [_rectangle(their_window.box, height, width)], [1])[:, 0] * area
    their_area = np.array([mask_utils.area(mask) for mask in theirs], np.float64)
    there = mask_utils.iou(list(theirs), [_rectangle(our_window.box, height, width)], [1])[:, 0] * their_area
    union = here[:, None] + there[None] - common
    agree, inside, outside = (
        np.divide(common, whole, out=np.zeros_like(common), where=common > 0)
        for whole in (union, np.broadcast_to(area[:, None], common.shape), np.broadcast_to(their_area, common.shape))
    )
    return agree, inside, outside


def _rectangle(box: Box, height: int, width: int) -> Rle:
    left, top, right, bottom = box
    (rle,) = mask_utils.frPyObjects([[left, top, right - left, bottom - top]], height, width)
    return rle  # type: ignore[no-any-return]


def _cut(windows: Sequence[Window], numbers: Sequence[int], masks: Sequence[Rle]) -> list[bool]:
    """Of each instance, whether its mask comes to an inner border of its window."""
    if not masks:
        return []
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
