"""The loss: every head's cross-entropy, mask and dice, in every supervised output (sections 3.3 and 4.1).

Shapes: L supervised outputs, B images, Q queries, N instances of the batch, M matched pairs of the batch,
P points, H W pixels of the padded images, h w = H/4 W/4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .matcher import HungarianMatcher, LossWeights, Matches, layers_at_once
from .object_loss import object_losses
from .points import RandomPoints, pick_uncertain, sample_maps
from .structures import UNKNOWN, Target, TargetBatch
from .transformer_decoder import MAIN, Outputs

Observer = Callable[[Outputs, Matches, TargetBatch], None]
"""Sees what was matched, before the losses are made of it."""

Losses = dict[str, Tensor]
"""For each term (L,) float32: its value in every output, without its weight."""


class SetCriterion:
    """Matches, then compares each query with its instance or with "no object".

    Args:
        weights: of the terms; the matcher uses the same.
        num_points: P, points of a mask that the losses look at.
        oversample_ratio: candidates for the uncertain points, as a multiple of P.
        importance_sample_ratio: share of P taken where the mask is most uncertain.
        deep_supervision: compare every output; otherwise the last one only.
        class_weights: of a head (`MAIN` or a subcategory's name) the weight of each class in its cross-entropy, (C,);
            without it every class has weight 1. The matching does not know them.
    """

    def __init__(
        self,
        weights: LossWeights,
        *,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool = True,
        class_weights: Mapping[str, Tensor] | None = None,
    ):
        self.weights = weights
        self.matcher = HungarianMatcher(weights, num_points)
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_sample_ratio)
        self.deep_supervision = deep_supervision
        self.class_weights = dict(class_weights or {})
        self.observer: Observer | None = None

    def __call__(
        self, outputs: Outputs, targets: Sequence[Target], points: RandomPoints, counts: Tensor | None = None
    ) -> Losses:
        """Compute all terms.

        Args:
            outputs: of the network for the batch.
            targets: of its images, all masks at the padded size (H, W).
            points: where to look.
            counts: `count_targets` of the *global* batch, summed over its parts, so that the parts' losses
                add up to the loss of the whole; by default this batch is the whole.

        Returns:
            `loss_ce`, `loss_mask`, `loss_dice` and `loss_<head>` of every subcategory head; of the map that queries
            are chosen from `loss_heatmap` and `loss_blob`.

        Raises:
            NonFiniteError: a prediction is NaN or infinite.
        """
        if not self.deep_supervision:
            outputs = last_output(outputs)
        queries = outputs.pred_logits.shape[2]
        if counts is None:
            counts = count_targets(targets, queries, tuple(outputs.pred_sublogits), self.class_weights)
        images, num_masks, matched, main, *known = counts.to(outputs.pred_logits.device, non_blocking=True).unbind()
        unmatched = self.weights.no_object * (images * queries - matched)
        if outputs.distinct is not None:  # how many of the global batch count is not known here: as many as instances,
            unmatched = matched.clamp(min=1)  # and without any as if there were one
        batch = TargetBatch.of(targets)
        matches = self.matcher(outputs, batch, points)
        if self.observer is not None:
            self.observer(outputs, matches, batch)
        weights = {name: w.to(unmatched.device) for name, w in self.class_weights.items()}
        losses = {
            "loss_ce": self.cross_entropy(
                outputs.pred_logits, batch.labels, matches, main + unmatched, weights.get(MAIN)
            )
        }
        for (name, logits), number in zip(outputs.pred_sublogits.items(), known, strict=True):
            losses[f"loss_{name}"] = self.cross_entropy(
                logits, batch.sublabels[name], matches, number + unmatched, weights.get(name)
            )
        losses["loss_mask"], losses["loss_dice"] = self.mask_losses(outputs, batch.masks, matches, points, num_masks)
        if outputs.maps is not None:
            losses["loss_heatmap"], losses["loss_blob"] = object_losses(outputs.maps, batch, num_masks)
        return losses

    def weighted(self, losses: Losses) -> Losses:
        """Each term summed over all outputs, times its weight."""
        w = self.weights
        weight = {"loss_ce": w.classes, "loss_mask": w.mask, "loss_dice": w.dice}
        weight |= {"loss_heatmap": w.heatmap, "loss_blob": w.blob}
        return {name: weight.get(name, w.subcategory) * term.sum() for name, term in losses.items()}

    def total(self, losses: Losses) -> Tensor:
        """The weighted sum of all terms over all outputs: what is minimised."""
        return torch.stack(list(self.weighted(losses).values())).sum()

    def cross_entropy(
        self,
        logits: Tensor,
        labels: Tensor,
        matches: Matches,
        normalizer: Tensor,
        class_weights: Tensor | None = None,
    ) -> Tensor:
        """(L,): weighted cross-entropy of one head, unmatched queries being "no object".

        A query whose instance has no known label in this head is left out.
        """
        no_object = logits.shape[-1] - 1
        classes = torch.full(logits.shape[:-1], no_object, device=logits.device)
        if matches.distinct is not None:
            classes.masked_fill_(~matches.distinct, UNKNOWN)
        classes[matches.layers, matches.images, matches.queries] = labels[matches.instances]
        if class_weights is None:
            class_weights = torch.ones(no_object, device=logits.device)
        weight = F.pad(class_weights, (0, 1), value=self.weights.no_object)
        loss = F.cross_entropy(
            logits.float().flatten(0, 2), classes.flatten(), weight, reduction="none", ignore_index=UNKNOWN
        )
        # it is 0 where every query has a pair and no pair a known label: so is the sum
        return loss.view(len(logits), -1).sum(1) / normalizer.clamp(min=1e-6)

    def mask_losses(
        self, outputs: Outputs, truth: Tensor, matches: Matches, points: RandomPoints, num_masks: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(L,) each: binary cross-entropy (mean over points) and dice, summed over the matched masks / `num_masks`.

        Args:
            truth: (N, H, W) masks of the batch's instances.
        """
        random = self.num_candidates + self.num_points - self.num_uncertain
        # cut into calls, a CPU draws the same points; a GPU would not, but takes all outputs together up to 1300 pairs
        at_once = layers_at_once(sum(matches.sizes) * random, truth.device)
        terms = []
        parts = zip(*(x.split(at_once) for x in (matched_masks(outputs, matches), matches.instances)), strict=True)
        for masks, index in parts:  # l of the L outputs
            drawn = torch.cat([points.draw(b, len(masks), n, random) for b, n in enumerate(matches.sizes)], 1)
            flat = masks.flatten(0, 1)  # (l * M, h, w)
            at = self.choose_points(flat.detach(), drawn.flatten(0, 1))
            predicted = sample_maps(flat, at).view(*index.shape, self.num_points)  # (l, M, P)
            terms.append(_mask_terms(predicted, truth_at(truth, index, at.view(*predicted.shape, 2))))
        bce, dice = torch.cat(terms, 1) / num_masks.clamp(min=1)
        return bce, dice

    @torch.no_grad()
    def choose_points(self, masks: Tensor, drawn: Tensor) -> Tensor:
        """(N, P, 2): of (N, ..., 2) random points the candidates where the mask is most uncertain, and the others.

        Args:
            masks: (N, h, w) logits.
        """
        candidates, plain = drawn.tensor_split([self.num_candidates], dim=1)
        return torch.cat((pick_uncertain(masks, candidates, self.num_uncertain), plain), 1)


def count_targets(
    targets: Sequence[Target],
    num_queries: int,
    heads: Sequence[str],
    class_weights: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """What the losses are divided by, as sums that can be added over the parts of a global batch.

    Args:
        class_weights: of `SetCriterion`, on the CPU.

    Returns:
        (4 + heads,) float64 on the CPU: images, instances, matched pairs, and for the main category and each head the
        weight of the matched pairs whose label is known: their number, where classes have no weights (its expectation
        where an image has more instances than queries).
    """
    weights = class_weights or {}
    counts = torch.zeros(4 + len(heads), dtype=torch.float64)
    for target in targets:
        n = len(target)
        matched = min(num_queries, n)
        labels = {MAIN: target.labels, **{head: target.sublabels[head] for head in heads}}
        known = [_weight_of(part, weights.get(head)) * matched / max(n, 1) for head, part in labels.items()]
        counts += torch.tensor([1, n, matched, *known], dtype=torch.float64)
    return counts


def _weight_of(labels: Tensor, weights: Tensor | None) -> float:
    """The sum of the weights of the labels that are known, or their number."""
    known = labels[labels != UNKNOWN]
    return len(known) if weights is None else float(weights[known].double().sum())


def matched_masks(outputs: Outputs, matches: Matches) -> Tensor:
    """(L, M, h, w) float32 mask logits of the matched queries; no other mask is ever built.

    One product for each image, all outputs together: its gradient reaches the features in one product as well.
    """
    embeds = outputs.mask_embed[matches.layers, matches.images, matches.queries].float().split(matches.sizes, 1)
    masks = [embed @ features.float().flatten(1) for embed, features in zip(embeds, outputs.mask_features, strict=True)]
    return torch.cat(masks, 1).view(*matches.queries.shape, *outputs.mask_features.shape[2:])


@torch.no_grad()
def truth_at(truth: Tensor, instances: Tensor, points: Tensor) -> Tensor:
    """(l, M, P): the instances' masks, (N, H, W), at the points of each pair, (l, M, P, 2)."""
    if instances.shape[1] == len(truth):  # every instance has its pair in every output, in the same order
        by_instance = sample_maps(truth, points.transpose(0, 1).flatten(1, 2))  # (N, l * P)
        return by_instance.view(len(truth), points.shape[0], points.shape[2]).transpose(0, 1)
    return torch.stack([sample_maps(truth[i], at) for i, at in zip(instances, points, strict=True)])


def _mask_terms(logits: Tensor, truth: Tensor) -> Tensor:
    """(l, M, P) each to (2, l): cross-entropy and dice (V-Net without squares, smoothed by one), summed over masks."""
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(2).sum(1)
    probability = logits.sigmoid()
    overlap, area = 2 * (probability * truth).sum(2), probability.sum(2) + truth.sum(2)
    return torch.stack((bce, (1 - (overlap + 1) / (area + 1)).sum(1)))


def last_output(outputs: Outputs) -> Outputs:
    """The last of the L outputs alone, for a loss without deep supervision."""
    return Outputs(
        pred_logits=outputs.pred_logits[-1:],
        pred_sublogits={name: logits[-1:] for name, logits in outputs.pred_sublogits.items()},
        mask_embed=outputs.mask_embed[-1:],
        mask_features=outputs.mask_features,
        maps=outputs.maps,
        distinct=outputs.distinct,
    )
