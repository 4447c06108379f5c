"""From the network's outputs to instances (Mask2Former section 4.1, post-processing).

Shapes: Q queries, C categories, K kept instances, D mask channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .structures import Instances, PackedInstances
from .transformer_decoder import Outputs

Ranking = Literal["main", "sum", "product"]
Size = tuple[int, int]
T = TypeVar("T")

FLOATS_AT_ONCE = 2**22
"""Mask logits at full size are made so many at a time: more would only cost memory."""


def instances_of_image(
    outputs: Outputs,
    image: int,
    *,
    padded: Size,
    resized: Size,
    original: Size,
    max_instances: int,
    ranking: Ranking,
) -> Instances:
    """Keep the best (query, category) pairs of an image and build their masks.

    Everything is read from the decoder's last output for this image and for the kept queries.

    Args:
        outputs: of the whole batch.
        image: which one of the batch.
        padded: (height, width) of the batch's tensor.
        resized: of the image inside of it.
        original: of the image file: the masks' size.
        max_instances: TEST.DETECTIONS_PER_IMAGE; all pairs are kept if there are fewer.
        ranking: see `ranking_scores`.
    """
    pairs = _best_pairs(outputs, image, max_instances, ranking)
    parts = _mask_parts(outputs, image, pairs.kept, padded, resized, original)
    masks, quality = zip(*parts, strict=True)
    scores, order = pairs.ranked(torch.cat(quality))
    return Instances(scores, masks=torch.cat(masks)[pairs.position[order]], **pairs.chosen(order))


def packed_instances_of_image(
    outputs: Outputs,
    image: int,
    *,
    padded: Size,
    resized: Size,
    original: Size,
    max_instances: int,
    ranking: Ranking,
    pack: Callable[[Tensor], Sequence[T]],
) -> PackedInstances[T]:
    """`instances_of_image`, whose masks are never all in memory at once: `pack` makes of each some what is kept.

    Args:
        pack: of (k, H, W) bool, one for each.
    """
    pairs = _best_pairs(outputs, image, max_instances, ranking)
    packed: list[T] = []
    qualities = []
    for masks, quality in _mask_parts(outputs, image, pairs.kept, padded, resized, original):
        packed += pack(masks)
        qualities.append(quality)
    scores, order = pairs.ranked(torch.cat(qualities))
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
    best, index = scores.flatten().topk(min(max_instances, scores.numel()), sorted=False)
    queries, labels = index // scores.shape[1], index % scores.shape[1]
    kept, position = queries.unique(return_inverse=True)
    return _Pairs(best, labels, queries, kept, position, subprobs)


def _mask_parts(
    outputs: Outputs, image: int, queries: Tensor, padded: Size, resized: Size, original: Size
) -> Iterator[tuple[Tensor, Tensor]]:
    return build_mask_parts(
        outputs.mask_embed[-1, image, queries].float(),
        outputs.mask_features[image].float(),
        padded=padded,
        resized=resized,
        original=original,
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


def build_masks(
    mask_embed: Tensor, mask_features: Tensor, *, padded: Size, resized: Size, original: Size
) -> tuple[Tensor, Tensor]:
    """Masks at the original size, and how sure the network is of each.

    Args:
        mask_embed: (K, D).
        mask_features: (D, H/4, W/4).

    Returns:
        (K, H, W) bool, and (K,) the mean probability over the mask's own pixels.
    """
    parts = build_mask_parts(mask_embed, mask_features, padded=padded, resized=resized, original=original)
    masks, quality = zip(*parts, strict=True)
    return torch.cat(masks), torch.cat(quality)


def build_mask_parts(
    mask_embed: Tensor, mask_features: Tensor, *, padded: Size, resized: Size, original: Size
) -> Iterator[tuple[Tensor, Tensor]]:
    """`build_masks`, some masks after the other: so many that they take no more memory than one large one."""
    at_once = max(1, FLOATS_AT_ONCE // max(padded[0] * padded[1], original[0] * original[1]))
    logits = torch.einsum("kd,dhw->khw", mask_embed, mask_features)
    for part in logits.split(at_once):
        yield _finish_masks(part, padded, resized, original)


def _finish_masks(logits: Tensor, padded: Size, resized: Size, original: Size) -> tuple[Tensor, Tensor]:
    logits = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)
    logits = logits[:, :, : resized[0], : resized[1]]
    logits = F.interpolate(logits, size=original, mode="bilinear", align_corners=False)[0]
    masks = logits > 0
    inside = masks.count_nonzero((1, 2))  # `sum` would make numbers of eight bytes of all of them first
    quality = logits.sigmoid_().mul_(masks).sum((1, 2)) / (inside + 1e-6)
    return masks, quality
