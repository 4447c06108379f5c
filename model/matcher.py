"""Assignment of queries to instances: bipartite matching over every head (section 3.3; DETR equation 1).

Shapes: L supervised outputs, B images, Q queries, N instances of an image, M matched pairs of the batch,
P points, D mask channels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .points import MaskFeatures, RandomPoints, sample_maps
from .structures import UNKNOWN, TargetBatch
from .transformer_decoder import Outputs

CACHED_FLOATS = 2**21
GPU_FLOATS = 2**29
LAST = 1e6
"""Cost of a query that only repeats another: it is taken when all others are."""


class NonFiniteError(ArithmeticError):
    """A prediction or a loss is NaN or infinite."""


@dataclass(frozen=True)
class LossWeights:
    """The weights of the loss terms, and of the same terms in the matching (the COCO recipe's 2 / 5 / 5).

    Attributes:
        classes: of the main category's cross-entropy.
        mask: of the mask's binary cross-entropy.
        dice: of the mask's dice loss.
        subcategory: of each subcategory head's cross-entropy.
        no_object: of a query without an instance inside every cross-entropy.
        heatmap: of the heat map's focal loss, where queries are chosen from one.
        blob: of the distance of the objects' centres and shapes that the map says.
    """

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    subcategory: float = 2.0
    no_object: float = 0.1
    heatmap: float = 2.0
    blob: float = 1.0


@dataclass(frozen=True)
class Matches:
    """The pairs of a batch, in the order of its instances: M pairs in each of the L outputs, on the outputs' device.

    An image with N instances gives min(Q, N) pairs, so where a pair lies does not depend on the output.

    Attributes:
        layers: (L, 1) int64, 0 to L - 1.
        images: (1, M) int64, the image of each pair.
        queries: (L, M) int64, in output l query `queries[l, i]` of its image stands for ...
        instances: (L, M) int64, ... instance `instances[l, i]`, counted through the whole batch.
        sizes: pairs of each image; they add up to M.
        distinct: as in `Outputs`.
    """

    layers: Tensor
    images: Tensor
    queries: Tensor
    instances: Tensor
    sizes: tuple[int, ...]
    distinct: Tensor | None = None


class HungarianMatcher:
    """Finds, in every output and image, the assignment of least cost: classes of all heads, mask and dice."""

    def __init__(self, weights: LossWeights, num_points: int):
        self.weights = weights
        self.num_points = num_points

    @torch.no_grad()
    def __call__(self, outputs: Outputs, targets: TargetBatch, points: RandomPoints) -> Matches:
        """Match every output of every image.

        Raises:
            NonFiniteError: a cost is NaN or infinite, because a prediction is.
        """
        on_host = self.cost(outputs, targets, points).cpu().numpy()  # the one time that the host waits
        if not np.isfinite(on_host).all():
            raise NonFiniteError("the network's predictions are not finite (NaN or infinite)")
        pairs = _assign(np.split(on_host, np.cumsum(targets.sizes)[:-1]), outputs.pred_logits.device)
        return replace(pairs, distinct=outputs.distinct)

    def cost(self, outputs: Outputs, targets: TargetBatch, points: RandomPoints) -> Tensor:
        """(N, L, Q): what it costs to let a query of an instance's image stand for it."""
        cost = self.mask_cost(outputs, targets, points)
        probability = probability_of(outputs.pred_logits, targets.images, targets.labels)
        cost.sub_(probability, alpha=self.weights.classes)
        for name, logits in outputs.pred_sublogits.items():
            probability = probability_of(logits, targets.images, targets.sublabels[name])
            cost.sub_(probability, alpha=self.weights.subcategory)
        if outputs.distinct is not None:
            cost.add_(~outputs.distinct[targets.images, None], alpha=LAST)
        return cost

    def mask_cost(self, outputs: Outputs, targets: TargetBatch, points: RandomPoints) -> Tensor:
        """(N, L, Q): the share of mask and dice; an image's points are shared by its queries and instances."""
        embed = outputs.mask_embed.float().transpose(0, 1)  # (B, L, Q, D)
        B, L, Q, D = embed.shape
        features = MaskFeatures(outputs.mask_features.float())
        places = torch.stack([points.draw(image, L, self.num_points) for image in range(B)])  # (B, L, P, 2)
        at_once = layers_at_once(B * self.num_points * (Q + D + max(targets.sizes)), embed.device)
        costs = []
        for queries, at in zip(embed.split(at_once, 1), places.split(at_once, 1), strict=True):  # l of the L outputs
            logits = features.logits_at(queries, at)  # (B * l, P, Q)
            seen = sample_maps(targets.masks, at[targets.images].flatten(1, 2))  # (N, l * P)
            truth = logits.new_zeros(B, at.shape[1], max(targets.sizes), self.num_points)
            truth[targets.images, :, targets.slots] = seen.view(-1, *at.shape[1:3])
            truth = truth.flatten(0, 1)  # (B * l, most instances, P)
            cost = self.weights.mask * pairwise_bce(logits, truth)
            cost.add_(pairwise_dice(logits, truth), alpha=self.weights.dice)
            costs.append(cost.unflatten(0, at.shape[:2])[targets.images, :, targets.slots])
        return torch.cat(costs, 1)


def pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """(B, P, Q) logits and (B, N, P) truths to (B, N, Q): binary cross-entropy, mean over points.

    -t log s(x) - (1 - t) log(1 - s(x)) = softplus(x) - t x.
    """
    return (F.softplus(logits).sum(1, keepdim=True) - truth.bmm(logits)) / logits.shape[1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """(B, P, Q) logits and (B, N, P) truths to (B, N, Q): dice loss, smoothed by one (V-Net without squares)."""
    probability = logits.sigmoid()
    overlap = 2 * truth.bmm(probability)
    total = probability.sum(1, keepdim=True) + truth.sum(2, keepdim=True)
    return 1 - (overlap + 1) / (total + 1)


def layers_at_once(floats: int, device: torch.device) -> int:
    """How many outputs to take together if each needs a buffer of so many floats.

    A CPU is fastest while the buffer stays in its cache; a GPU takes as many as two gigabytes hold, as a rule all.
    """
    return max(1, (CACHED_FLOATS if device.type == "cpu" else GPU_FLOATS) // max(floats, 1))


def probability_of(logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
    """(L, B, Q, K + 1) logits and (N,) labels to (N, L, Q): the label's probability, 0 if it is unknown."""
    known = (labels != UNKNOWN).view(-1, 1, 1)
    return logits.float().softmax(-1)[:, images, :, labels.clamp(min=0)] * known


def _assign(costs: list[NDArray[np.float32]], device: torch.device) -> Matches:
    """Solve the assignment of every image and output, (N, L, Q) each, on the host; pairs in instance order."""
    images, queries, instances = [], [], []
    first = 0
    for image, cost in enumerate(costs):
        pairs = [linear_sum_assignment(layer) for layer in cost.swapaxes(0, 1)]
        instances.append(np.stack([rows for rows, _ in pairs]) + first)
        queries.append(np.stack([columns for _, columns in pairs]))
        images.append(np.full((1, queries[-1].shape[1]), image))
        first += len(cost)
    layers = len(queries[0])
    index = torch.from_numpy(np.concatenate([np.hstack(x) for x in (images, queries, instances)]))
    index = index.to(device, non_blocking=True)
    sizes = tuple(x.shape[1] for x in images)
    parts = index.tensor_split([1, 1 + layers])
    return Matches(torch.arange(layers, device=device)[:, None], parts[0], parts[1], parts[2], sizes)
