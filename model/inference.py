"""From the network's outputs to instances (Mask2Former section 4.1, post-processing).

Shapes: Q queries, C categories, K kept instances, D mask channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .structures import Instances, MaskCrop, PackedInstances
from .transformer_decoder import Outputs

Ranking = Literal["main", "sum", "product"]
Size = tuple[int, int]
T = TypeVar("T")
Pack = Callable[[Sequence[MaskCrop], Size], Sequence[T]]
"""Some masks, and the (height, width) of their image, to what is kept of each."""

FLOATS_AT_ONCE = 2**22
"""Mask logits at full size are made so many at a time: more would only cost memory."""
LINES_AT_ONCE = 256
"""Lines of a mask on a CPU."""
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


def instances_of_image(
    outputs: Outputs,
    image: int,
    frame: Frame,
    *,
    max_instances: int,
    ranking: Ranking,
) -> Instances:
    """Keep the best (query, category) pairs of an image and build their masks.

    Everything is read from the decoder's last output for this image and for the kept queries.

    Args:
        outputs: of the whole batch.
        image: which one of the batch.
        max_instances: TEST.DETECTIONS_PER_IMAGE; all pairs are kept if there are fewer.
        ranking: see `ranking_scores`.
    """
    pairs = _best_pairs(outputs, image, max_instances, ranking)
    parts = list(_mask_parts(outputs, image, pairs.kept, frame))
    crops = [crop for some, _ in parts for crop in some]
    scores, order = pairs.ranked(torch.cat([pairs.scores[:0], *(quality for _, quality in parts)]))
    masks = scores.new_zeros(len(scores), *frame.original, dtype=torch.bool)
    for mask, kept in zip(masks, pairs.position[order].tolist(), strict=True):
        crops[kept].paste(mask)
    return Instances(scores, masks=masks, **pairs.chosen(order))


def packed_instances_of_image(
    outputs: Outputs,
    image: int,
    frame: Frame,
    *,
    max_instances: int,
    ranking: Ranking,
    pack: Pack[T],
) -> PackedInstances[T]:
    """`instances_of_image`, whose masks are never all in memory at once: `pack` makes of each some what is kept."""
    pairs = _best_pairs(outputs, image, max_instances, ranking)
    packed: list[T] = []
    qualities = []
    for crops, quality in _mask_parts(outputs, image, pairs.kept, frame):
        packed += pack(crops, frame.original)
        qualities.append(quality)
    scores, order = pairs.ranked(torch.cat([pairs.scores[:0], *qualities]))
    return PackedInstances(scores, masks=[packed[i] for i in pairs.position[order].tolist()], **pairs.chosen(order))


@dataclass(frozen=True)
class _Pairs:
    """The best (query, category) pairs of an image, K of them, not in order.

    Attributes:
        scores: (K,).
        labels, queries: (K,).
        kept: the different queries among them, each of whose masks is built once.
        position: (K,), which of `kept` each pair has.
        subprobs: of all queries.
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    kept: Tensor
    position: Tensor
    subprobs: dict[str, Tensor]

    def ranked(self, quality: Tensor) -> tuple[Tensor, Tensor]:
        """Final scores, best first, and the order that makes them so; `quality` is of the masks of `kept`."""
        final = self.scores * quality[self.position]
        order = final.argsort(descending=True, stable=True)
        return final[order], order

    def chosen(self, order: Tensor) -> dict[str, Any]:
        queries = self.queries[order]
        subprobs = {name: probs[queries] for name, probs in self.subprobs.items()}
        return {"labels": self.labels[order], "queries": queries, "subprobs": subprobs}


def _best_pairs(outputs: Outputs, image: int, max_instances: int, ranking: Ranking) -> _Pairs:
    logits = outputs.pred_logits[-1, image].float()
    subprobs = {name: head[-1, image].float().softmax(-1)[:, :-1] for name, head in outputs.pred_sublogits.items()}
    scores = ranking_scores(logits.softmax(-1)[:, :-1], list(subprobs.values()), ranking)  # (Q, C)
    if outputs.distinct is not None:
        scores = scores[outputs.distinct[image]]  # they come first: the others' numbers stay
    best, index = scores.flatten().topk(min(max_instances, scores.numel()), sorted=False)
    queries, labels = index // scores.shape[1], index % scores.shape[1]
    kept, position = queries.unique(return_inverse=True)
    return _Pairs(best, labels, queries, kept, position, subprobs)


def _mask_parts(outputs: Outputs, image: int, queries: Tensor, frame: Frame) -> Iterator[tuple[list[MaskCrop], Tensor]]:
    return build_mask_parts(
        outputs.mask_embed[-1, image, queries].float(),
        outputs.mask_features[image].float(),
        frame,
    )


def ranking_scores(probs: Tensor, subprobs: list[Tensor], ranking: Ranking) -> Tensor:
    """(Q, C): by what instances compete, in [0, 1].

    Args:
        probs: (Q, C), the main categories' probabilities.
        subprobs: (Q, C_k) of every subcategory head.
        ranking: "main" is Mask2Former's; "sum" is the mean of the main probability and every head's highest;
            "product" is their product.
    """
    if ranking == "main" or not subprobs:
        return probs
    best = torch.stack([p.amax(-1) for p in subprobs])[:, :, None]  # (heads, Q, 1)
    if ranking == "sum":
        return (probs + best.sum(0)) / (1 + len(best))
    return probs * best.prod(0)


def build_mask_parts(
    mask_embed: Tensor, mask_features: Tensor, frame: Frame
) -> Iterator[tuple[list[MaskCrop], Tensor]]:
    """Masks at the original size, and how sure the network is of each; so many at a time as memory allows.

    Args:
        mask_embed: (K, D).
        mask_features: (D, H/4, W/4).

    Returns:
        k masks, and (k,) the mean probability over the mask's own pixels.
    """
    logits = torch.einsum("kd,dhw->khw", mask_embed, mask_features)
    if logits.device.type == "cpu":
        yield from _cropped(logits, frame)
        return
    at_once = max(
        1, FLOATS_AT_ONCE // max(math.prod(frame.padded), math.prod(frame.resized), math.prod(frame.original))
    )
    for part in logits.split(at_once):
        masks, quality = whole_masks(part, frame)
        yield [MaskCrop(mask) for mask in masks], quality


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


def _cropped(logits: Tensor, frame: Frame) -> Iterator[tuple[list[MaskCrop], Tensor]]:
    """`whole_masks`, one after the other, and of each only what its positive cells reach: the same masks.

    Both resizes and the crop between them are linear along either axis: one small matrix for the rows, one for the
    columns. Where rounding could decide on which side of 0 a pixel lies, the mask is that of `whole_masks`.
    """
    rows, columns = (_Axis.of(logits.shape[1 + axis], frame, axis) for axis in (0, 1))
    across, down = rows.reached(logits.amax(2)), columns.reached(logits.amax(1))
    peaks = logits.abs().amax((1, 2)).tolist()
    for cells, (top, bottom), (left, right), peak in zip(logits, across, down, peaks, strict=True):
        if not math.isfinite(peak):
            masks, quality = whole_masks(cells[None], frame)
            yield [MaskCrop(masks[0])], quality
        elif top >= bottom or left >= right:
            yield [MaskCrop(torch.zeros(0, 0, dtype=torch.bool))], logits.new_zeros(1)
        elif (found := _Crop(cells, rows, columns, peak).pixels(top, bottom, left, right)) is None:
            masks, quality = whole_masks(cells[None], frame)
            yield [MaskCrop(masks[0, top:bottom, left:right], top, left)], quality
        else:
            mask, total = found
            quality = total / (mask.count_nonzero() + 1e-6)
            yield [MaskCrop(mask, top, left)], quality[None]


@dataclass(frozen=True)
class _Axis:
    """How the N pixels of the original image along one axis come from the n cells of a mask's logits.

    Attributes:
        weights: (N, n) float32, few of each row not 0.
        first, last: of n cells, the first pixel that this cell or one after it reaches, and the last that this one
            or one before it does; N and -1 where there is none (padding, or cells that a smaller image skips).
        low, high: of N pixels, the range of cells that it reads.
    """

    weights: Tensor
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    low: list[int]
    high: list[int]

    @classmethod
    def of(cls, cells: int, frame: Frame, axis: int) -> _Axis:
        """The rows (axis 0) or columns (axis 1) of a frame."""
        padded, window, resized, original = (
            size[axis] for size in (frame.padded, frame.window, frame.resized, frame.original)
        )
        start = (frame.top, frame.left)[axis]
        unit = torch.eye(cells)[None, None]
        grown = F.interpolate(unit, size=(padded, cells), mode="bilinear", align_corners=False)[:, :, :window]
        placed = F.pad(grown, (0, 0, start, resized - start - window))
        weights = F.interpolate(placed, size=(original, cells), mode="bilinear", align_corners=False)[0, 0]
        used = weights.numpy() != 0
        reaches = used.any(0)
        first = np.where(reaches, used.argmax(0), original)
        last = np.where(reaches, original - 1 - used[::-1].argmax(0), -1)
        return cls(
            weights=weights,
            first=np.minimum.accumulate(first[::-1])[::-1],
            last=np.maximum.accumulate(last),
            low=used.argmax(1).tolist(),
            high=(cells - used[:, ::-1].argmax(1)).tolist(),
        )

    def reached(self, highest: Tensor) -> list[tuple[int, int]]:
        """(K, n) highest logits of each line of cells: the range of pixels that can be positive."""
        cells = highest.numpy() > 0
        first = self.first[cells.argmax(1)]
        last = self.last[cells.shape[1] - 1 - cells[:, ::-1].argmax(1)]
        stop = np.where(cells.any(1), last + 1, 0)
        return list(zip(first.tolist(), stop.tolist(), strict=True))


@dataclass(frozen=True)
class _Crop:
    """The logits (h, w) of one mask, up to `peak` in size, on their way to the original image."""

    cells: Tensor
    rows: _Axis
    columns: _Axis
    peak: float

    def pixels(self, top: int, bottom: int, left: int, right: int) -> tuple[Tensor, Tensor] | None:
        """The mask in a part of the image, and the sum of its probabilities; None where rounding could decide."""
        low, high = self.columns.low[left], self.columns.high[right - 1]
        wide = self.cells[:, low:high] @ self.columns.weights[left:right, low:high].T
        mask = torch.empty(bottom - top, right - left, dtype=torch.bool)
        total = wide.new_zeros(())
        for start in range(top, bottom, LINES_AT_ONCE):  # few cells reach so few lines
            stop = min(start + LINES_AT_ONCE, bottom)
            low, high = self.rows.low[start], self.rows.high[stop - 1]
            logits = self.rows.weights[start:stop, low:high] @ wide[low:high]
            near = logits.abs() <= ROUNDING * self.peak
            if near.any() and self._in_doubt(logits, near, start, left):
                return None
            inside = torch.gt(logits, 0, out=mask[start - top : stop - top])
            total += logits[inside].sigmoid_().sum()
        return mask, total

    def _in_doubt(self, logits: Tensor, near: Tensor, top: int, left: int) -> bool:
        """Whether one of the pixels that are near 0 beside the whole mask is so beside the cells around it too."""
        y, x = near.nonzero(as_tuple=True)
        around = ((self.rows.weights[y + top] @ self.cells.abs()) * self.columns.weights[x + left]).sum(1)
        return bool((logits[near].abs() <= ROUNDING * around).any())
