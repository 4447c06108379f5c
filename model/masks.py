"""From a network's mask logits to masks at the size of the image file, kept as their edges.

On a GPU all pixels are made, some masks at a time, and only the edges leave it. On a CPU only those tiles of an image
are made that a mask's positive cells reach, row by row of tiles, of all masks in the same few operations.

Shapes: K masks, D mask channels, h w cells of the mask features, H W pixels; T tiles, S columns and L lines of pixels
in one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Size = tuple[int, int]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Edges = Ints
"""Where a mask begins, ends, begins again ...: numbers of pixels, down the first column of the image, then the next,
rising. COCO's run lengths are their differences."""

FLOATS_AT_ONCE = 2**22
"""Mask logits at full size are made so many at a time: more would only cost memory."""
TILE = 32
"""Side of a tile [pixels]."""
ROUNDING = 32 * 2.0**-24
"""How far two ways to resize twice in float32 may differ, beside the mean size of what is resized: about ten roundings
each, and none of either resize's weights, which both share."""


@dataclass(frozen=True)
class Frame:
    """Where an input of the network lies in its image; each size is (height, width).

    Attributes:
        padded: of the batch's tensor.
        window: of the input in it: a window of the resized image, or all of it.
        resized: of the whole resized image.
        original: of the image file: the masks' size.
        top, left: of the window in the resized image.
    """

    padded: Size
    window: Size
    resized: Size
    original: Size
    top: int = 0
    left: int = 0


def edge_parts(mask_embed: Tensor, mask_features: Tensor, frame: Frame) -> Iterator[tuple[list[Edges], Tensor]]:
    """Masks at the original size, and how sure the network is of each; so many at a time as memory allows.

    Args:
        mask_embed: (K, D), K > 0.
        mask_features: (D, h, w).

    Returns:
        The edges of k masks, and (k,) the mean probability over the mask's own pixels.
    """
    logits = torch.einsum("kd,dhw->khw", mask_embed, mask_features)
    if logits.device.type == "cpu":
        yield from _tiled_parts(logits, frame)
    else:
        for masks, quality in _whole_parts(logits, frame):
            yield edges_of(masks), quality


def mask_parts(mask_embed: Tensor, mask_features: Tensor, frame: Frame) -> Iterator[tuple[Tensor, Tensor]]:
    """`edge_parts` with whole masks (k, H, W) bool on the network's device."""
    logits = torch.einsum("kd,dhw->khw", mask_embed, mask_features)
    if logits.device.type == "cpu":
        for edges, quality in _tiled_parts(logits, frame):
            yield painted(edges, frame.original), quality
    else:
        yield from _whole_parts(logits, frame)


def _whole_parts(logits: Tensor, frame: Frame) -> Iterator[tuple[Tensor, Tensor]]:
    at_once = FLOATS_AT_ONCE // max(math.prod(frame.padded), math.prod(frame.resized), math.prod(frame.original))
    yield from (whole_masks(part, frame) for part in logits.split(max(1, at_once)))


def _tiled_parts(logits: Tensor, frame: Frame) -> Iterator[tuple[list[Edges], Tensor]]:
    rows, columns = (_Tiles.of(logits.shape[1 + axis], frame, axis) for axis in (0, 1))
    at_once = FLOATS_AT_ONCE // (TILE * frame.original[1])
    yield from (_tiled(part, frame, rows, columns) for part in logits.split(max(1, at_once)))


def whole_masks(logits: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """The definition: logits (k, h, w) to masks (k, H, W) bool and their quality (k,), at full size from end to end."""
    logits = F.interpolate(logits[None], size=frame.padded, mode="bilinear", align_corners=False)
    logits = _in_place(logits[:, :, : frame.window[0], : frame.window[1]], frame)
    logits = F.interpolate(logits, size=frame.original, mode="bilinear", align_corners=False)[0]
    masks = logits > 0
    inside = masks.count_nonzero((1, 2))  # `sum` would make numbers of eight bytes of all of them first
    quality = logits.sigmoid_().mul_(masks).sum((1, 2)) / (inside + 1e-6)
    return masks, quality


def _in_place(logits: Tensor, frame: Frame) -> Tensor:
    """A window's logits in the whole resized image; around it they are 0, which leaves the sign to the window."""
    if frame.window == frame.resized:
        return logits
    below, right = frame.resized[0] - frame.top - frame.window[0], frame.resized[1] - frame.left - frame.window[1]
    return F.pad(logits, (frame.left, right, frame.top, below))


def edges_of(masks: Tensor) -> list[Edges]:
    """The edges of masks (K, H, W) bool, found on their device: 8 bytes an edge leave it, in one copy."""
    size = (masks.shape[1], masks.shape[2])
    columns = F.pad(masks.transpose(1, 2), (1, 1))
    changes = (columns[:, :, 1:] != columns[:, :, :-1]).flatten().nonzero()
    return _split(changes[:, 0].cpu().numpy(), len(masks), size)


def painted(edges: Sequence[Edges], size: Size) -> Tensor:
    """(K, H, W) bool: the masks that have these edges."""
    columns = np.zeros((len(edges), size[1] * size[0]), np.bool_)
    for mask, places in zip(columns, edges, strict=True):
        for start, end in places.reshape(-1, 2).tolist():
            mask[start:end] = True
    return torch.from_numpy(columns).view(len(edges), size[1], size[0]).transpose(1, 2).contiguous()


def _split(changes: Ints, masks: int, size: Size) -> list[Edges]:
    """The edges of each mask, from all places in the masks' columns at which pixels begin or end to be set.

    Args:
        changes: rising; a column has one place more than pixels, and columns follow each other as in `Edges`, mask
            after mask.
    """
    height, width = size
    columns = changes // (height + 1)
    pixels = changes - columns  # a place less in each column before
    numbers = columns // width
    # a run that goes on in the next column ends and begins at the same pixel of the same mask
    meet = (pixels[1:] == pixels[:-1]) & (numbers[1:] == numbers[:-1])
    kept = np.ones(len(changes), np.bool_)
    kept[1:] &= ~meet
    kept[:-1] &= ~meet
    pixels, numbers = pixels[kept], numbers[kept]
    return np.split(pixels - numbers * (height * width), np.searchsorted(numbers, np.arange(1, masks)))[:masks]


@np.errstate(over="ignore", invalid="ignore")
def _tiled(logits: Tensor, frame: Frame, rows: _Tiles, columns: _Tiles) -> tuple[list[Edges], Tensor]:
    """`whole_masks` on a CPU, of which only the tiles that positive cells reach are made: the same masks.

    Both resizes and the crop between them are linear along either axis: one small matrix for the rows, one for the
    columns. Where rounding could decide on which side of 0 a pixel lies, the mask is that of `whole_masks`.
    """
    cells: Floats = logits.numpy()
    height, width = frame.original
    defined = ~np.isfinite(cells.sum((1, 2)))  # masks that are left to the definition
    positive = (cells > 0).astype(np.float32)
    positive[defined] = 0
    reached = rows.reads @ (positive @ columns.reads.T)  # (K, bands, tiles of a band)
    windows = np.lib.stride_tricks.sliding_window_view(cells, (rows.taps.shape[2], columns.taps.shape[2]), axis=(1, 2))
    sums, changes = np.zeros(len(cells)), [np.zeros(0, np.int64)]
    for band in np.flatnonzero(reached.any((0, 2))):
        masks, tiles = reached[:, band].nonzero()
        read, down, across = windows[masks, rows.low[band], columns.low[tiles]], rows.taps[band], columns.taps[tiles]
        pixels = _resized(read, down, across)
        near = np.abs(pixels).reshape(len(pixels), -1).min(1) <= ROUNDING * np.abs(read).max((1, 2))
        if near.any():
            around = _resized(np.abs(read[near]), down, across[near])
            doubt = (np.abs(pixels[near]) <= ROUNDING * around) & (around > 0)  # 0 of nothing but zeros is certain
            defined[masks[near][doubt.any((1, 2))]] = True
        starts = (masks * width + tiles * columns.side) * (height + 1) + band * rows.side
        changes.append(_changes(pixels > 0, starts, height + 1))
        sums += np.bincount(masks, _probabilities(pixels), len(cells))
    edges = _split(np.sort(np.concatenate(changes), kind="stable"), len(cells), frame.original)
    areas = [int(each[1::2].sum() - each[::2].sum()) for each in edges]
    quality = torch.from_numpy(sums / (np.array(areas) + 1e-6)).float()
    for mask in np.flatnonzero(defined).tolist():
        whole, quality[mask : mask + 1] = whole_masks(logits[mask : mask + 1], frame)
        edges[mask : mask + 1] = edges_of(whole)
    return edges, quality


def _resized(read: Floats, down: Floats, across: Floats) -> Floats:
    """(T, S, L): the pixels of tiles, each with the line above and the one below, column by column.

    Args:
        read: (T, h, w), the cells that they read.
        down: (L, h), and across: (T, S, w), the weights.
    """
    columns: Floats = across @ read.transpose(0, 2, 1)
    pixels: Floats = columns.reshape(-1, columns.shape[2]) @ down.T
    return pixels.reshape(*columns.shape[:2], -1)


def _probabilities(pixels: Floats) -> Floats:
    """(T,): the sum over the positive ones of a tile's own pixels; `pixels` are used up."""
    inside = torch.threshold_(torch.from_numpy(pixels), 0, -math.inf).sigmoid_()
    sums: Floats = inside[:, :, 1:-1].sum((1, 2)).numpy()
    return sums


def _changes(inside: Bools, starts: Ints, step: int) -> Ints:
    """Where the pixels of tiles begin or end to be set, as `_split` counts, unsorted.

    Args:
        inside: (T, S, L), tiles with the lines above and below; what ends in a tile's first place, or begins behind
            its last line, is its neighbour's.
        starts: (T,), the number of each tile's first place.
        step: from one column to the next.
    """
    side, lines = inside.shape[1:]
    flat = inside.reshape(-1)
    change = flat[1:] != flat[:-1]
    change[lines - 1 :: lines] = False  # from one column to the next
    change[::lines] &= flat[1::lines]
    change[lines - 2 :: lines] &= flat[lines - 2 :: lines]
    places = np.flatnonzero(change)
    columns = places // lines
    tiles = columns // side
    found: Ints = starts[tiles] + (columns - tiles * side) * step + places - columns * lines
    return found


@dataclass(frozen=True)
class _Tiles:
    """How the tiles of an image come from the cells of its masks' logits, along one axis.

    Attributes:
        side: pixels of a tile.
        low: (tiles,), the first cell that each one reads.
        taps: (tiles, pixels, cells) float32, how its pixels come from what it reads; 0 beyond the image. The tiles of
            the rows have a pixel more at either end.
        reads: (tiles, all cells) float32, 1 for what it reads.
    """

    side: int
    low: Ints
    taps: Floats
    reads: Floats

    @classmethod
    @lru_cache(maxsize=4)  # images of one size follow each other
    def of(cls, cells: int, frame: Frame, axis: int) -> _Tiles:
        """Of the rows (axis 0) or the columns (axis 1) of a frame, from so many cells."""
        padded, window, resized, original = (
            size[axis] for size in (frame.padded, frame.window, frame.resized, frame.original)
        )
        start = (frame.top, frame.left)[axis]
        unit = torch.eye(cells)[None, None]
        grown = F.interpolate(unit, size=(padded, cells), mode="bilinear", align_corners=False)[:, :, :window]
        placed = F.pad(grown, (0, 0, start, resized - start - window))
        weights = F.interpolate(placed, size=(original, cells), mode="bilinear", align_corners=False)[0, 0].numpy()
        tiles, more = -(-original // TILE), 1 - axis
        side = -(-original // tiles)
        numbers = np.arange(tiles)[:, None] * side + np.arange(-more, side + more)
        weights = np.pad(weights, ((more, numbers.max() + 1 - original), (0, 0)))[numbers + more]
        used = weights.any(1)  # (tiles, cells)
        first = used.argmax(1)
        stop = np.where(used.any(1), cells - used[:, ::-1].argmax(1), 0)  # beside a window nothing is read
        width = max(1, (stop - first).max())
        low = np.minimum(first, cells - width)
        taps = np.take_along_axis(weights, (low[:, None] + np.arange(width))[:, None], 2)
        place = np.arange(cells)
        reads = (first[:, None] <= place) & (place < stop[:, None])
        return cls(side, low, taps, reads.astype(np.float32))
