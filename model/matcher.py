"""Which query stands for which instance: bipartite matching over every head (section 3.3; DETR equation 1).

Shapes: L supervised outputs, B images, Q queries, N instances of an image, P points, D mask channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model.points import RandomPoints, sample_points
from model.structures import UNKNOWN, Target
from model.transformer_decoder import Outputs


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
    """

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    subcategory: float = 2.0
    no_object: float = 0.1


@dataclass(frozen=True)
class Match:
    """The pairs of one image, in the order of its instances.

    Attributes:
        queries, instances: (L, M) int64 on the CPU, M = min(Q, N): in output l query `queries[l, i]`
            stands for instance `instances[l, i]`.
    """

    queries: Tensor
    instances: Tensor


class HungarianMatcher:
    """Finds, in every output and image, the assignment of least cost: classes of all heads, mask and dice."""

    def __init__(self, weights: LossWeights, num_points: int):
        self.weights = weights
        self.num_points = num_points

    @torch.no_grad()
    def __call__(self, outputs: Outputs, targets: Sequence[Target], points: RandomPoints) -> list[Match]:
        """Match every output of every image.

        Raises:
            NonFiniteError: a cost is NaN or infinite, because a prediction is.
        """
        costs = [self.cost(outputs, image, target, points) for image, target in enumerate(targets)]
        on_host = torch.cat([cost.flatten() for cost in costs]).cpu()  # the one transfer of a step
        if not torch.isfinite(on_host).all():
            raise NonFiniteError("the network's predictions are not finite (NaN or infinite)")
        parts = on_host.split([cost.numel() for cost in costs])
        return [_assign(part.view(cost.shape)) for part, cost in zip(parts, costs, strict=True)]

    def cost(self, outputs: Outputs, image: int, target: Target, points: RandomPoints) -> Tensor:
        """(L, Q, N): what it costs to let a query stand for an instance."""
        w = self.weights
        cost = -w.classes * _probability_of(outputs.pred_logits[:, image], target.labels)
        for name, logits in outputs.pred_sublogits.items():
            cost = cost - w.subcategory * _probability_of(logits[:, image], target.sublabels[name])
        places = points.draw(image, len(cost), self.num_points)
        features = outputs.mask_features[image].float()
        masks = target.masks.to(features)
        for layer, at in enumerate(places):
            # a mask's logit at a point is the product with the features at that point
            seen = sample_points(features[None], at[None])[0]  # (D, P)
            logits = outputs.mask_embed[layer, image].float() @ seen  # (Q, P)
            truth = sample_points(masks[None], at[None])[0]  # (N, P)
            cost[layer] += w.mask * pairwise_bce(logits, truth) + w.dice * pairwise_dice(logits, truth)
        return cost


def pairwise_bce(logits: Tensor, truth: Tensor) -> Tensor:
    """(Q, P) logits and (N, P) truths to (Q, N): binary cross-entropy, mean over points.

    -t log s(x) - (1 - t) log(1 - s(x)) = softplus(x) - t x.
    """
    return (F.softplus(logits).sum(1, keepdim=True) - logits @ truth.T) / logits.shape[1]


def pairwise_dice(logits: Tensor, truth: Tensor) -> Tensor:
    """(Q, P) logits and (N, P) truths to (Q, N): dice loss, smoothed by one (V-Net, equation 3)."""
    probability = logits.sigmoid()
    overlap = 2 * probability @ truth.T
    total = probability.sum(1, keepdim=True) + truth.sum(1)
    return 1 - (overlap + 1) / (total + 1)


def _probability_of(logits: Tensor, labels: Tensor) -> Tensor:
    """(L, Q, K + 1) logits and (N,) labels to (L, Q, N) probabilities; an unknown label counts nothing."""
    known = labels != UNKNOWN
    return logits.float().softmax(-1)[..., labels.clamp(min=0)] * known


def _assign(cost: Tensor) -> Match:
    """Solve the assignment of every output of an image, (L, Q, N) on the CPU; pairs in instance order."""
    pairs = [linear_sum_assignment(layer.T.numpy()) for layer in cost]
    instances = torch.stack([torch.from_numpy(rows) for rows, _ in pairs])
    queries = torch.stack([torch.from_numpy(columns) for _, columns in pairs])
    return Match(queries.long(), instances.long())
