"""The loss: every head's cross-entropy, mask and dice, in every supervised output (section 3.3, equation 5).

Shapes: L supervised outputs, B images, Q queries, N instances of the batch, M matched pairs of the batch,
P points, H W pixels of the padded images, h w = H/4 W/4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.matcher import HungarianMatcher, LossWeights, Match
from model.points import RandomPoints, pick_uncertain, sample_points
from model.structures import UNKNOWN, Target
from model.transformer_decoder import Outputs

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
    """

    def __init__(
        self,
        weights: LossWeights,
        *,
        num_points: int,
        oversample_ratio: float,
        importance_sample_ratio: float,
        deep_supervision: bool = True,
    ):
        self.weights = weights
        self.matcher = HungarianMatcher(weights, num_points)
        self.num_points = num_points
        self.num_candidates = int(num_points * oversample_ratio)
        self.num_uncertain = int(num_points * importance_sample_ratio)
        self.deep_supervision = deep_supervision

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
            `loss_ce`, `loss_mask`, `loss_dice` and `loss_<head>` of every subcategory head.

        Raises:
            NonFiniteError: a prediction is NaN or infinite.
        """
        if not self.deep_supervision:
            outputs = _last_output(outputs)
        queries = outputs.pred_logits.shape[2]
        if counts is None:
            counts = count_targets(targets, queries, tuple(outputs.pred_sublogits))
        counts = counts.to(outputs.pred_logits.device)
        images, num_masks, matched, *known = counts.unbind()
        unmatched = self.weights.no_object * (images * queries - matched)
        matches = self.matcher(outputs, targets, points)
        losses = {
            "loss_ce": self.cross_entropy(
                outputs.pred_logits, [t.labels for t in targets], matches, matched + unmatched
            )
        }
        for (name, logits), number in zip(outputs.pred_sublogits.items(), known, strict=True):
            labels = [t.sublabels[name] for t in targets]
            losses[f"loss_{name}"] = self.cross_entropy(logits, labels, matches, number + unmatched)
        bce, dice = self.mask_losses(outputs, targets, matches, points)
        losses["loss_mask"] = bce / num_masks.clamp(min=1)
        losses["loss_dice"] = dice / num_masks.clamp(min=1)
        return losses

    def weighted(self, losses: Losses) -> Losses:
        """Each term summed over all outputs, times its weight."""
        w = self.weights
        weight = {"loss_ce": w.classes, "loss_mask": w.mask, "loss_dice": w.dice}
        return {name: weight.get(name, w.subcategory) * term.sum() for name, term in losses.items()}

    def total(self, losses: Losses) -> Tensor:
        """The weighted sum of all terms over all outputs: what is minimised."""
        return torch.stack(list(self.weighted(losses).values())).sum()

    def cross_entropy(
        self, logits: Tensor, labels: Sequence[Tensor], matches: Sequence[Match], normalizer: Tensor
    ) -> Tensor:
        """(L,): weighted cross-entropy of one head, unmatched queries being "no object".

        A query whose instance has no known label in this head is left out.
        """
        no_object = logits.shape[-1] - 1
        classes = torch.full(logits.shape[:-1], no_object, device=logits.device)
        for image, (match, label) in enumerate(zip(matches, labels, strict=True)):
            values = label[match.instances.to(label.device)]
            classes[:, image].scatter_(1, match.queries.to(label.device), values)
        weight = torch.ones(no_object + 1, device=logits.device)
        weight[no_object] = self.weights.no_object
        loss = F.cross_entropy(
            logits.float().flatten(0, 2), classes.flatten(), weight, reduction="none", ignore_index=UNKNOWN
        )
        return loss.view(len(logits), -1).sum(1) / normalizer

    def mask_losses(
        self, outputs: Outputs, targets: Sequence[Target], matches: Sequence[Match], points: RandomPoints
    ) -> tuple[Tensor, Tensor]:
        """(L,) each: binary cross-entropy (mean over points) and dice, summed over the matched masks."""
        truth = torch.cat([t.masks for t in targets])[:, None].float()  # (N, 1, H, W)
        bce, dice = [], []
        for layer in range(len(outputs.mask_embed)):
            logits = matched_masks(outputs, matches, layer)  # (M, h, w)
            at = self.choose_points(logits.detach(), matches, points)
            predicted = sample_points(logits[:, None], at).squeeze(1)  # (M, P)
            with torch.no_grad():
                wanted = sample_points(truth[_matched_instances(matches, targets, layer)], at).squeeze(1)
            bce.append(F.binary_cross_entropy_with_logits(predicted, wanted, reduction="none").mean(1).sum())
            probability = predicted.sigmoid()
            overlap, area = 2 * (probability * wanted).sum(1), probability.sum(1) + wanted.sum(1)
            dice.append((1 - (overlap + 1) / (area + 1)).sum())
        return torch.stack(bce), torch.stack(dice)

    @torch.no_grad()
    def choose_points(self, logits: Tensor, matches: Sequence[Match], points: RandomPoints) -> Tensor:
        """(M, P, 2): the most uncertain of many random points, and some plain random ones."""
        drawn, plain = [], []
        for image, match in enumerate(matches):
            pairs = match.queries.shape[1]
            drawn.append(points.draw(image, pairs, self.num_candidates))
            plain.append(points.draw(image, pairs, self.num_points - self.num_uncertain))
        uncertain = pick_uncertain(logits, torch.cat(drawn), self.num_uncertain)
        return torch.cat((uncertain, torch.cat(plain)), dim=1)


def count_targets(targets: Sequence[Target], num_queries: int, heads: Sequence[str]) -> Tensor:
    """What the losses are divided by, as sums that can be added over the parts of a global batch.

    Returns:
        (3 + heads,) float64 on the CPU: images, instances, matched pairs, and for each head the matched pairs
        whose label is known (their expectation where an image has more instances than queries).
    """
    counts = torch.zeros(3 + len(heads), dtype=torch.float64)
    for target in targets:
        n = len(target)
        matched = min(num_queries, n)
        known = [int((target.sublabels[head] != UNKNOWN).sum()) * matched / max(n, 1) for head in heads]
        counts += torch.tensor([1, n, matched, *known], dtype=torch.float64)
    return counts


def matched_masks(outputs: Outputs, matches: Sequence[Match], layer: int) -> Tensor:
    """(M, h, w) float32 mask logits of the matched queries of one output; no other mask is ever built."""
    masks = []
    for image, match in enumerate(matches):
        embed = outputs.mask_embed[layer, image, match.queries[layer].to(outputs.mask_embed.device)]
        masks.append(torch.einsum("md,dhw->mhw", embed.float(), outputs.mask_features[image].float()))
    return torch.cat(masks)


def _matched_instances(matches: Sequence[Match], targets: Sequence[Target], layer: int) -> Tensor | slice:
    """Which of the batch's instances the matched pairs of an output are; all of them, as a rule."""
    starts = [0]
    for target in targets:
        starts.append(starts[-1] + len(target))
    index = torch.cat([match.instances[layer] + start for match, start in zip(matches, starts, strict=False)])
    return slice(None) if len(index) == starts[-1] else index.to(targets[0].masks.device)


def _last_output(outputs: Outputs) -> Outputs:
    return Outputs(
        pred_logits=outputs.pred_logits[-1:],
        pred_sublogits={name: logits[-1:] for name, logits in outputs.pred_sublogits.items()},
        mask_embed=outputs.mask_embed[-1:],
        mask_features=outputs.mask_features,
    )
