"""From the network's outputs to instances (Mask2Former section 4.1, post-processing).

Shapes: Q queries, C categories, K kept instances, D mask channels, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .structures import Instances, MaskCrop, PackedInstances
from .transformer_decoder import Outputs

Ranking = Literal["main", "sum", "logits", "product"]
DropNoObject = Literal["none", "any", "all"]
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


@dataclass(frozen=True)
class Choice:
    """Which (query, category) pairs of an image may be instances, and by what they compete; by default Mask2Former's.

    A probability is one of a softmax over the classes and "no object". The subcategory heads' sieves drop nothing where
    there is no head.

    Attributes:
        ranking: see `ranking_scores`.
        class_threshold: of the pair's category, the least probability.
        subcategory_threshold: of the best class of every subcategory head, the least probability.
        drop_no_object: the queries of which "any" or "all" subcategory heads find "no object" likelier than every class
            are dropped.
        one_label: whether a query has its most probable category alone.
    """

    ranking: Ranking = "main"
    class_threshold: float = 0.0
    subcategory_threshold: float = 0.0
    drop_no_object: DropNoObject = "none"
    one_label: bool = False

    def passed(self, probs: Tensor, subprobs: Sequence[Tensor]) -> Tensor | None:
        """(Q, C) bool, the pairs that no sieve drops; None, without any work, where there is no sieve.

        Args:
            probs, subprobs: of `ranking_scores`.
        """
        if replace(self, ranking="main") == MASK2FORMER:
            return None
        classes = probs[:, :-1]
        passed = classes >= self.class_threshold
        if subprobs:
            best = torch.stack([p[:, :-1].amax(-1) for p in subprobs])  # (heads, Q)
            passed &= (best >= self.subcategory_threshold).all(0)[:, None]
            nothing = torch.stack([p[:, -1] for p in subprobs]) > best
            if self.drop_no_object != "none":
                passed &= ~(nothing.any(0) if self.drop_no_object == "any" else nothing.all(0))[:, None]
        if self.one_label:
            passed &= torch.zeros_like(passed).scatter_(1, classes.argmax(-1, keepdim=True), True)
        return passed


MASK2FORMER = Choice()


def instances_of_image(
    outputs: Outputs, image: int, frame: Frame, choice: Choice = MASK2FORMER, *, max_instances: int
) -> Instances:
    """Keep the best (query, category) pairs of an image and build their masks.

    Everything is read from the decoder's last output for this image and for the kept queries.

    Args:
        outputs: of the whole batch.
        image: which one of the batch.
        max_instances: TEST.DETECTIONS_PER_IMAGE; all pairs are kept if there are fewer.
    """
    pairs = _best_pairs(outputs, image, max_instances, choice)
    kept = pairs.queries.unique()
    parts = list(_mask_parts(outputs, image, kept, frame))
    crops = [crop for some, _ in parts for crop in some]
    found, places = pairs.ranked(kept, torch.cat([pairs.scores[:0], *(quality for _, quality in parts)]))
    masks = pairs.scores.new_zeros(len(places), *frame.original, dtype=torch.bool)
    for mask, place in zip(masks, places, strict=True):
        crops[place].paste(mask)
    return Instances(masks=masks, **found)


def packed_instances_of_image(
    outputs: Outputs, image: int, frame: Frame, choices: Sequence[Choice], *, max_instances: int, pack: Pack[T]
) -> list[PackedInstances[T]]:
    """`instances_of_image` for each of several choices. A query's mask is built once for all that keep it.

    The masks are never all in memory at once: `pack` makes of each some what is kept.
    """
    chosen = [_best_pairs(outputs, image, max_instances, choice) for choice in choices]
    kept = torch.cat([pairs.queries for pairs in chosen]).unique()
    packed: list[T] = []
    qualities = []
    for crops, quality in _mask_parts(outputs, image, kept, frame):
        packed += pack(crops, frame.original)
        qualities.append(quality)
    found = []
    for pairs in chosen:
        instances, places = pairs.ranked(kept, torch.cat([pairs.scores[:0], *qualities]))
        found.append(PackedInstances(masks=[packed[place] for place in places], **instances))
    return found


@dataclass(frozen=True)
class _Pairs:
    """The best (query, category) pairs of an image, K of them, not in order.

    Attributes:
        scores: (K,).
        labels, queries: (K,).
        subprobs: of all queries.
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    subprobs: dict[str, Tensor]

    def ranked(self, kept: Tensor, quality: Tensor) -> tuple[dict[str, Any], list[int]]:
        """All of `Instances` but the masks, best first, and the place of each one's query in `kept`.

        Args:
            kept: (M,) different queries in ascending order, these among them.
            quality: (M,), of their masks.
        """
        places = torch.searchsorted(kept, self.queries)
        final = self.scores * quality[places]
        order = final.argsort(descending=True, stable=True)
        queries = self.queries[order]
        subprobs = {name: probs[queries] for name, probs in self.subprobs.items()}
        found = {"scores": final[order], "labels": self.labels[order], "queries": queries, "subprobs": subprobs}
        return found, places[order].tolist()


def _best_pairs(outputs: Outputs, image: int, max_instances: int, choice: Choice) -> _Pairs:
    probs = outputs.pred_logits[-1, image].float().softmax(-1)
    subprobs = {name: head[-1, image].float().softmax(-1) for name, head in outputs.pred_sublogits.items()}
    scores = ranking_scores(probs, list(subprobs.values()), choice.ranking)  # (Q, C)
    passed = choice.passed(probs, list(subprobs.values()))
    if outputs.distinct is not None:  # they come first: the others' numbers stay
        distinct = outputs.distinct[image]
        scores, passed = scores[distinct], None if passed is None else passed[distinct]
    if passed is None:
        best, index = scores.flatten().topk(min(max_instances, scores.numel()), sorted=False)
    else:
        places = passed.flatten().nonzero()[:, 0]
        best, order = scores.flatten()[places].topk(min(max_instances, len(places)), sorted=False)
        index = places[order]
    labels, queries = index % scores.shape[1], index // scores.shape[1]
    return _Pairs(best, labels, queries, {name: p[:, :-1] for name, p in subprobs.items()})


def _mask_parts(outputs: Outputs, image: int, queries: Tensor, frame: Frame) -> Iterator[tuple[list[MaskCrop], Tensor]]:
    if len(queries):  # nothing cannot be resized
        yield from build_mask_parts(
            outputs.mask_embed[-1, image, queries].float(),
            outputs.mask_features[image].float(),
            frame,
        )


def ranking_scores(probs: Tensor, subprobs: Sequence[Tensor], ranking: Ranking) -> Tensor:
    """(Q, C): by what instances compete, in [0, 1]; without a subcategory head it is p in every ranking.

    With p the main category's probability, p_k the highest of head k (of K heads), and logit(p) = log(p / (1 - p)):

        main      p, as in Mask2Former
        sum       (p + p_1 + ... + p_K) / (1 + K)
        logits    sigmoid((logit(p) + logit(p_1) + ... + logit(p_K)) / (1 + K))
        product   p p_1 ... p_K, the sum of the logarithms

    A classifier's own outputs are no choice for `logits`: the softmax, and so the loss, does not change if a number is
    added to all outputs of a query, hence their size says nothing and differs from query to query. logit(p) is such an
    output less the log-sum-exp of the others; its mean is the logarithmic opinion pool (Genest & Zidek 1986).

    Args:
        probs: (Q, C + 1), the main categories' probabilities, that of "no object" the last.
        subprobs: (Q, C_k + 1) of every subcategory head.
    """
    classes = probs[:, :-1]
    if ranking == "main" or not subprobs:
        return classes
    if ranking == "logits":
        classes, subprobs = _logits(probs)[:, :-1], [_logits(p) for p in subprobs]
    best = torch.stack([p[:, :-1].amax(-1) for p in subprobs])[:, :, None]  # (heads, Q, 1)
    if ranking == "product":
        return classes * best.prod(0)
    mean = (classes + best.sum(0)) / (1 + len(best))
    return mean.sigmoid() if ranking == "logits" else mean


def _logits(probs: Tensor) -> Tensor:
    """log(p / (1 - p)) of the rows of a softmax; 1 - p of the largest is the sum of the others, which loses nothing."""
    largest = probs.argmax(-1, keepdim=True)
    rest = (1 - probs).scatter(-1, largest, probs.scatter(-1, largest, 0).sum(-1, keepdim=True))
    least = torch.finfo(probs.dtype).tiny
    return probs.clamp(min=least).log() - rest.clamp(min=least).log()


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
