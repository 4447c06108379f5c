"""From the network's outputs to instances (Mask2Former section 4.1, post-processing).

Shapes: Q queries, C categories, K kept instances, D mask channels, H W pixels.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.structures import Instances
from model.transformer_decoder import Outputs

Ranking = Literal["main", "sum", "product"]
Size = tuple[int, int]

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
    logits = outputs.pred_logits[-1, image].float()
    subprobs = {name: head[-1, image].float().softmax(-1)[:, :-1] for name, head in outputs.pred_sublogits.items()}
    scores = ranking_scores(logits.softmax(-1)[:, :-1], list(subprobs.values()), ranking)  # (Q, C)
    best, index = scores.flatten().topk(min(max_instances, scores.numel()), sorted=False)
    queries, labels = index // scores.shape[1], index % scores.shape[1]
    kept, position = queries.unique(return_inverse=True)  # a query's mask is built once
    masks, quality = build_masks(
        outputs.mask_embed[-1, image, kept].float(),
        outputs.mask_features[image].float(),
        padded=padded,
        resized=resized,
        original=original,
    )
    final = best * quality[position]
    order = final.argsort(descending=True, stable=True)
    return Instances(
        scores=final[order],
        labels=labels[order],
        masks=masks[position[order]],
        queries=queries[order],
        subprobs={name: probs[queries[order]] for name, probs in subprobs.items()},
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
    at_once = max(1, FLOATS_AT_ONCE // max(padded[0] * padded[1], original[0] * original[1]))
    logits = torch.einsum("kd,dhw->khw", mask_embed, mask_features)
    parts = [_finish_masks(part, padded, resized, original) for part in logits.split(at_once)]
    masks, quality = zip(*parts, strict=True)
    return torch.cat(masks), torch.cat(quality)


def _finish_masks(logits: Tensor, padded: Size, resized: Size, original: Size) -> tuple[Tensor, Tensor]:
    logits = F.interpolate(logits[None], size=padded, mode="bilinear", align_corners=False)
    logits = logits[:, :, : resized[0], : resized[1]]
    logits = F.interpolate(logits, size=original, mode="bilinear", align_corners=False)[0]
    masks = logits > 0
    inside = masks.sum((1, 2))
    quality = logits.sigmoid_().mul_(masks).sum((1, 2)) / (inside + 1e-6)
    return masks, quality
