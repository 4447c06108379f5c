"""Matching and loss with two subcategory heads, against the formulas written plainly: loops, numpy, brute force.

Shapes: L supervised outputs, B images, Q queries, N instances of an image, P points.
"""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import stored_parity as parity
import torch
from numpy.typing import NDArray

from raytune_m2f.model import UNKNOWN, LossWeights, Outputs, SetCriterion, Target
from raytune_m2f.model.structures import TargetBatch

Array = NDArray[np.float64]
Pairs = dict[int, int]
"""The query of each matched instance of an image."""

LAYERS, QUERIES, CHANNELS = parity.LAYERS + 1, 4, 6
CATEGORIES, HEADS = 3, {"color": 4, "texture": 2}
COUNTS = (3, 0, 6, 2)
"""Instances of each image: none in one, more than queries in another."""
WEIGHTS = (LossWeights(), LossWeights(classes=1.5, mask=2.0, dice=3.0, subcategory=4.0, no_object=0.3))


def random_outputs() -> Outputs:
    rng = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=rng)

    per_query = (LAYERS, len(COUNTS), QUERIES)
    return Outputs(
        pred_logits=normal(*per_query, CATEGORIES + 1),
        pred_sublogits={name: normal(*per_query, classes + 1) for name, classes in HEADS.items()},
        mask_embed=normal(*per_query, CHANNELS),
        mask_features=normal(len(COUNTS), CHANNELS, 8, 12),
    )


def random_targets() -> list[Target]:
    """Every second label of the second head is unknown, but in the image with more instances than queries none."""
    rng = torch.Generator().manual_seed(6)
    targets = []
    for count in COUNTS:
        masks = torch.zeros(count, 32, 48, dtype=torch.bool)
        for mask in masks:
            top, left = torch.randint(0, 20, (2,), generator=rng).tolist()
            mask[top : top + 12, left : left + 20] = True
        labels, color, texture = (
            torch.randint(0, classes, (count,), generator=rng) for classes in (CATEGORIES, *HEADS.values())
        )
        if count <= QUERIES:
            texture[::2] = UNKNOWN
        targets.append(Target(labels, masks, {"color": color, "texture": texture}))
    return targets


def criterion_with(weights: LossWeights) -> SetCriterion:
    return SetCriterion(
        weights,
        num_points=parity.POINTS,
        oversample_ratio=parity.OVERSAMPLE,
        importance_sample_ratio=parity.IMPORTANCE,
    )


class Plain:
    """The formulas of matching and loss for `random_outputs` and `random_targets`."""

    def __init__(self, weights: LossWeights, outputs: Outputs, targets: list[Target]):
        self.weights, self.targets = weights, targets
        heads = {"ce": outputs.pred_logits} | outputs.pred_sublogits
        self.logits = {name: logits.double().numpy() for name, logits in heads.items()}
        self.labels = [{"ce": t.labels.numpy()} | {n: x.numpy() for n, x in t.sublabels.items()} for t in targets]
        self.masks = np.einsum(
            "lbqd,bdhw->lbqhw", outputs.mask_embed.double().numpy(), outputs.mask_features.double().numpy()
        )

    def cost(self, layer: int, image: int, query: int, instance: int) -> float:
        """What it costs to let the query stand for the instance."""
        at = parity.matching_points(image)[layer].double().numpy()
        logits = bilinear(self.masks[layer, image, query], at)
        truth = bilinear(self.targets[image].masks[instance].numpy(), at)
        cost = self.weights.mask * cross_entropy_of_mask(logits, truth) + self.weights.dice * dice(logits, truth)
        for head, scores in self.logits.items():
            label = self.labels[image][head][instance]
            if label != UNKNOWN:
                cost -= self.weight_of(head) * softmax(scores[layer, image, query])[label]
        return float(cost)

    def weight_of(self, head: str) -> float:
        return self.weights.classes if head == "ce" else self.weights.subcategory

    def match(self, layer: int, image: int) -> Pairs:
        """The assignment of least cost, found by trying all."""
        count = len(self.targets[image])
        cost = [[self.cost(layer, image, q, i) for i in range(count)] for q in range(QUERIES)]
        if count <= QUERIES:
            choices = (dict(enumerate(queries)) for queries in permutations(range(QUERIES), count))
        else:
            choices = (
                {instance: query for query, instance in enumerate(instances)}
                for instances in permutations(range(count), QUERIES)
            )
        return min(choices, key=lambda pairs: sum(cost[query][instance] for instance, query in pairs.items()))

    def class_loss(self, head: str, layer: int, matches: list[Pairs]) -> float:
        """The weighted mean over all queries whose label is known."""
        total = weight_sum = 0.0
        for image, pairs in enumerate(matches):
            instance_of = {query: instance for instance, query in pairs.items()}
            for query, logits in enumerate(self.logits[head][layer, image]):
                label, weight = len(logits) - 1, self.weights.no_object
                if query in instance_of:
                    label, weight = self.labels[image][head][instance_of[query]], 1.0
                if label != UNKNOWN:
                    total -= weight * np.log(softmax(logits)[label])
                    weight_sum += weight
        return total / weight_sum

    def mask_losses(self, layer: int, matches: list[Pairs]) -> tuple[float, float]:
        """Cross-entropy and dice, summed over the pairs, by the number of all instances."""
        bce_sum = dice_sum = 0.0
        for image, pairs in enumerate(matches):
            for place, (instance, query) in enumerate(sorted(pairs.items())):
                mask = self.masks[layer, image, query]
                at = uncertain_points(mask, parity.loss_points(image)[layer, place].double().numpy())
                logits, truth = bilinear(mask, at), bilinear(self.targets[image].masks[instance].numpy(), at)
                bce_sum += cross_entropy_of_mask(logits, truth)
                dice_sum += dice(logits, truth)
        return bce_sum / sum(COUNTS), dice_sum / sum(COUNTS)


def bilinear(image: NDArray[np.generic], points: Array) -> Array:
    """(H, W) read at (P, 2) points in [0, 1]; zero outside."""
    height, width = image.shape
    bordered = np.pad(image.astype(np.float64), 1)
    x, y = points[:, 0] * width + 0.5, points[:, 1] * height + 0.5
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right, down = x - left, y - top
    upper = (1 - right) * bordered[top, left] + right * bordered[top, left + 1]
    lower = (1 - right) * bordered[top + 1, left] + right * bordered[top + 1, left + 1]
    read: Array = (1 - down) * upper + down * lower
    return read


def uncertain_points(mask: Array, drawn: Array) -> Array:
    """The candidates where the logit is nearest to 0, and the other points."""
    split = int(parity.OVERSAMPLE * parity.POINTS)
    nearest = np.argsort(np.abs(bilinear(mask, drawn[:split])))[: int(parity.IMPORTANCE * parity.POINTS)]
    return np.concatenate((drawn[nearest], drawn[split:]))


def softmax(logits: Array) -> Array:
    probabilities: Array = np.exp(logits) / np.exp(logits).sum()
    return probabilities


def sigmoid(logits: Array) -> Array:
    return 1 / (1 + np.exp(-logits))


def cross_entropy_of_mask(logits: Array, truth: Array) -> float:
    p = sigmoid(logits)
    return float(np.mean(-truth * np.log(p) - (1 - truth) * np.log(1 - p)))


def dice(logits: Array, truth: Array) -> float:
    p = sigmoid(logits)
    return float(1 - (2 * np.sum(p * truth) + 1) / (np.sum(p) + np.sum(truth) + 1))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_matching_of_every_output_is_the_cheapest_over_all_heads(weights: LossWeights) -> None:
    outputs, targets = random_outputs(), random_targets()
    plain = Plain(weights, outputs, targets)
    found = criterion_with(weights).matcher(outputs, TargetBatch.of(targets), parity.StoredPoints())
    starts = np.cumsum((0, *COUNTS))
    for layer in range(LAYERS):
        pairs: list[Pairs] = [{} for _ in COUNTS]
        for image, query, instance in zip(
            found.images[0].tolist(), found.queries[layer].tolist(), found.instances[layer].tolist(), strict=True
        ):
            pairs[image][instance - int(starts[image])] = query
        assert pairs == [plain.match(layer, image) for image in range(len(COUNTS))]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_every_term_of_every_output_is_the_plain_formula(weights: LossWeights) -> None:
    outputs, targets = random_outputs(), random_targets()
    plain = Plain(weights, outputs, targets)
    criterion = criterion_with(weights)
    losses = criterion(outputs, targets, parity.StoredPoints())
    wanted: dict[str, list[float]] = {name: [] for name in losses}
    for layer in range(LAYERS):
        matches = [plain.match(layer, image) for image in range(len(COUNTS))]
        for head in plain.logits:
            wanted[f"loss_{head}"].append(plain.class_loss(head, layer, matches))
        for name, value in zip(("loss_mask", "loss_dice"), plain.mask_losses(layer, matches), strict=True):
            wanted[name].append(value)
    for name, values in losses.items():
        np.testing.assert_allclose(values.numpy(), wanted[name], rtol=1e-5, err_msg=name)
    weight = {"loss_mask": weights.mask, "loss_dice": weights.dice}
    total = sum(
        sum(values) * (weight[name] if name in weight else plain.weight_of(name.removeprefix("loss_")))
        for name, values in wanted.items()
    )
    assert float(criterion.total(losses)) == pytest.approx(total, rel=1e-5)
