"""Matching and loss: invariants, edge cases, and agreement with plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raytune_m2f.model import (
    UNKNOWN,
    LossWeights,
    MultiTaskMaskFormer,
    NonFiniteError,
    Outputs,
    RandomPoints,
    SetCriterion,
    Target,
    count_targets,
)
from raytune_m2f.model.criterion import last_output
from raytune_m2f.model.matcher import HungarianMatcher, pairwise_bce, pairwise_dice
from raytune_m2f.model.structures import TargetBatch

MakeTarget = Callable[..., Target]
CPU = torch.device("cpu")


def points(*seeds: int) -> RandomPoints:
    return RandomPoints(seeds, CPU)


def test_permuted_targets_give_the_same_loss(
    network: MultiTaskMaskFormer,
    images: list[Tensor],
    criterion: SetCriterion,
    make_target: MakeTarget,
    same_points: RandomPoints,
) -> None:
    outputs, target = network(images), make_target(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    shuffled = Target(
        target.labels[order], target.masks[order], {name: x[order] for name, x in target.sublabels.items()}
    )
    first = criterion(outputs, [target, make_target(2, 9)], same_points)
    second = criterion(outputs, [shuffled, make_target(2, 9)], same_points)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, msg=name)


def test_parts_of_a_batch_add_up_to_the_whole(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    """What makes gradient accumulation and any number of workers give the same gradient."""
    targets = [make_target(5), make_target(2, 9)]
    whole = criterion(network(images), targets, points(11, 12))
    counts = count_targets(targets, network.num_queries, network.heads)
    parts = [
        criterion(network([image]), [target], points(seed), counts)
        for image, target, seed in zip(images, targets, (11, 12), strict=True)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, msg=name, atol=1e-4, rtol=1e-4)


def test_parts_add_up_where_classes_have_weights(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    targets = [make_target(5), make_target(2, 9)]
    plain = criterion(network(images), targets, points(11, 12))
    criterion.class_weights = {"class": torch.tensor([0.5, 3.0, 1.0]), "texture": torch.tensor([2.0, 0.1, 1.0])}
    whole = criterion(network(images), targets, points(11, 12))
    assert {name for name, value in whole.items() if not torch.equal(value, plain[name])} == {"loss_ce", "loss_texture"}
    counts = count_targets(targets, network.num_queries, network.heads, criterion.class_weights)
    parts = [
        criterion(network([image]), [target], points(seed), counts)
        for image, target, seed in zip(images, targets, (11, 12), strict=True)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, msg=name, atol=1e-4, rtol=1e-4)


def test_images_without_instances_have_no_larger_loss_than_others(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    """Learnable queries: the mean over all. Located ones: their sum, as if there were one instance."""
    without = criterion(network(images), [make_target(0), make_target(0)], points(1, 2))
    assert (without["loss_ce"] < 2 * network.num_queries).all()
    assert (without["loss_color"] < 2 * network.num_queries).all()


def test_an_image_without_instances_trains(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    losses = criterion(network(images), [make_target(0), make_target(3)], points(1, 2))
    assert torch.isfinite(criterion.total(losses))


def test_a_batch_without_instances_trains_every_parameter(
    images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget, network: MultiTaskMaskFormer
) -> None:
    """DDP waits for ever for a parameter without a gradient."""
    network.zero_grad()
    losses = criterion(network(images), [make_target(0), make_target(0)], points(1, 2))
    criterion.total(losses).backward()
    assert losses["loss_mask"].tolist() == [0.0] * 4
    assert losses["loss_ce"].min() > 0
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_more_instances_than_queries_match_every_query_once(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    targets = [make_target(9), make_target(1)]
    matches = criterion.matcher(network(images), TargetBatch.of(targets), points(1, 2))
    assert matches.sizes == (6, 1)
    assert matches.images.tolist() == [[0] * 6 + [1]]
    assert all(sorted(layer.tolist()) == list(range(6)) for layer in matches.queries[:, :6])
    assert all(len(set(layer.tolist())) == 6 for layer in matches.instances[:, :6])
    assert (matches.instances[:, 6] == 9).all()
    assert torch.isfinite(criterion.total(criterion(network(images), targets, points(1, 2))))


def _outputs(logits: Tensor, sublogits: dict[str, Tensor], masks: Tensor) -> Outputs:
    """Outputs of one layer and one image whose masks are given: (Q, C), (Q, C_k) and (Q, h, w)."""
    queries = len(masks)
    return Outputs(
        pred_logits=logits[None, None],
        pred_sublogits={name: x[None, None] for name, x in sublogits.items()},
        mask_embed=torch.eye(queries)[None, None],
        mask_features=masks[None],
    )


def test_the_matcher_looks_at_every_head(same_points: RandomPoints) -> None:
    """Two queries with equal masks and categories: the subcategory decides."""
    masks = torch.full((2, 16, 16), 3.0)
    sub = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    target = Target(torch.tensor([0]), torch.ones(1, 64, 64, dtype=torch.bool), {"color": torch.tensor([1])})
    outputs = _outputs(torch.zeros(2, 3), {"color": sub}, masks)
    matcher = HungarianMatcher(LossWeights(), 32)
    assert matcher(outputs, TargetBatch.of([target]), same_points).queries.item() == 1
    flipped = replace(target, sublabels={"color": torch.tensor([0])})
    assert matcher(outputs, TargetBatch.of([flipped]), same_points).queries.item() == 0


def test_an_unknown_subcategory_costs_nothing_and_teaches_nothing(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    known, other = make_target(3), make_target(2, 9)
    unknown = replace(known, sublabels={**known.sublabels, "color": torch.full((3,), UNKNOWN)})
    outputs = network(images)
    matcher, batch = criterion.matcher, TargetBatch.of([unknown, other])
    no_color = replace(outputs, pred_sublogits={"texture": outputs.pred_sublogits["texture"]})
    with_color, without = (matcher.cost(x, batch, points(1, 2)) for x in (outputs, no_color))
    torch.testing.assert_close(with_color[:3], without[:3])
    assert not torch.allclose(with_color[3:], without[3:])
    color = outputs.pred_sublogits["color"].detach().requires_grad_()
    losses = criterion(
        replace(outputs, pred_sublogits={**outputs.pred_sublogits, "color": color}), [unknown, other], points(1, 2)
    )
    losses["loss_color"].sum().backward()
    assert color.grad is not None
    matches = matcher(outputs, batch, points(1, 2))
    for layer, queries in enumerate(matches.queries[:, :3]):
        assert (color.grad[layer, 0, queries] == 0).all()
    assert (color.grad != 0).any()


def test_cross_entropy_is_the_weighted_mean_of_every_head(same_points: RandomPoints) -> None:
    """Mask2Former's: weights in numerator and denominator, no-object being the last class."""
    torch.manual_seed(0)
    logits, sub = torch.randn(3, 4), torch.randn(3, 3)
    masks = torch.randn(3, 16, 16)
    target = Target(torch.tensor([2]), masks[1:2].repeat_interleave(4, 1).repeat_interleave(4, 2) > 0, {})
    target = replace(target, sublabels={"color": torch.tensor([1])})
    weights = LossWeights(classes=0, subcategory=0)  # the mask alone decides: query 1
    criterion = SetCriterion(weights, num_points=256, oversample_ratio=3, importance_sample_ratio=0.75)
    losses = criterion(_outputs(logits, {"color": sub}, masks * 10), [target], same_points)
    wanted = F.cross_entropy(logits, torch.tensor([3, 2, 3]), torch.tensor([1, 1, 1, 0.1]))
    torch.testing.assert_close(losses["loss_ce"][0], wanted)
    wanted = F.cross_entropy(sub, torch.tensor([2, 1, 2]), torch.tensor([1, 1, 0.1]))
    torch.testing.assert_close(losses["loss_color"][0], wanted)
    of_classes = {"class": torch.tensor([1.0, 2.0, 3.0]), "color": torch.tensor([1.0, 0.2])}
    criterion = SetCriterion(
        weights, num_points=256, oversample_ratio=3, importance_sample_ratio=0.75, class_weights=of_classes
    )
    losses = criterion(_outputs(logits, {"color": sub}, masks * 10), [target], same_points)
    wanted = F.cross_entropy(logits, torch.tensor([3, 2, 3]), torch.tensor([1, 2, 3, 0.1]))
    torch.testing.assert_close(losses["loss_ce"][0], wanted)
    wanted = F.cross_entropy(sub, torch.tensor([2, 1, 2]), torch.tensor([1, 0.2, 0.1]))
    torch.testing.assert_close(losses["loss_color"][0], wanted)


def test_a_perfect_mask_has_almost_no_mask_loss(same_points: RandomPoints) -> None:
    mask = torch.zeros(16, 16)
    mask[4:12, 4:12] = 1
    target = Target(torch.tensor([0]), mask.repeat_interleave(4, 0).repeat_interleave(4, 1)[None] > 0)
    criterion = SetCriterion(LossWeights(), num_points=256, oversample_ratio=3, importance_sample_ratio=0.0)
    good = criterion(_outputs(torch.zeros(1, 2), {}, (mask[None] - 0.5) * 40), [target], same_points)
    bad = criterion(_outputs(torch.zeros(1, 2), {}, (0.5 - mask[None]) * 40), [target], same_points)
    assert good["loss_dice"].item() < 0.1 < 0.9 < bad["loss_dice"].item()
    assert good["loss_mask"].item() < 0.5 < 10 < bad["loss_mask"].item()


def test_pairwise_costs_are_the_plain_formulas() -> None:
    logits, truth = torch.randn(2, 50, 4), (torch.rand(2, 3, 50) > 0.5).float()
    all_bce, all_dice = pairwise_bce(logits, truth), pairwise_dice(logits, truth)
    for b, n, q in product(range(2), range(3), range(4)):
        x, t = logits[b, :, q], truth[b, n]
        torch.testing.assert_close(all_bce[b, n, q], F.binary_cross_entropy_with_logits(x, t))
        p = x.sigmoid()
        torch.testing.assert_close(all_dice[b, n, q], 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))


def test_predictions_that_are_not_finite_end_by_name(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget
) -> None:
    outputs = network(images)
    broken = replace(outputs, pred_logits=outputs.pred_logits * float("nan"))
    with pytest.raises(NonFiniteError, match="not finite"):
        criterion(broken, [make_target(2), make_target(1)], points(1, 2))


def test_without_deep_supervision_the_last_output_alone_is_compared(
    network: MultiTaskMaskFormer, images: list[Tensor], make_target: MakeTarget
) -> None:
    shallow = SetCriterion(
        LossWeights(), num_points=64, oversample_ratio=3, importance_sample_ratio=0.75, deep_supervision=False
    )
    targets = [make_target(2), make_target(1)]
    losses = shallow(network(images), targets, points(1, 2))
    assert {name: x.shape for name, x in losses.items()} == dict.fromkeys(losses, (1,))
    outputs = network(images)
    matches = shallow.matcher(last_output(outputs), TargetBatch.of(targets), points(1, 2))
    labels, one = torch.cat([t.labels for t in targets]), torch.tensor(1.0)
    counts = count_targets(targets, 6, network.heads)
    normalizer = counts[2] + (0.1 * (2 * 6 - counts[2]) if outputs.distinct is None else counts[2])
    want = shallow.cross_entropy(outputs.pred_logits[-1:], labels, matches, one) / normalizer
    torch.testing.assert_close(losses["loss_ce"], want.float(), check_dtype=False)


@pytest.mark.parametrize("classes", [1, 500])
@pytest.mark.parametrize("heads", [{}, {"a": 2, "b": 3, "c": 1}])
def test_any_number_of_categories_and_heads_trains(
    heads: dict[str, int],
    classes: int,
    images: list[Tensor],
    criterion: SetCriterion,
    make_target: MakeTarget,
    make_network: Callable[..., MultiTaskMaskFormer],
) -> None:
    net = make_network(heads, num_classes=classes)
    targets = [make_target(2, classes=classes, heads=heads), make_target(1, classes=classes, heads=heads)]
    outputs = net(images)
    losses = criterion(outputs, targets, points(1, 2))
    of_maps = {"loss_heatmap", "loss_blob"} if outputs.maps is not None else set()
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice", *(f"loss_{name}" for name in heads)} | of_maps
    assert all(torch.isfinite(term).all() for term in losses.values())
    criterion.total(losses).backward()


@pytest.mark.parametrize("count", [6, 8])  # as many instances as queries, and more
def test_a_head_without_a_known_label_and_without_an_unmatched_query_has_no_loss(
    network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: MakeTarget, count: int
) -> None:
    target = make_target(count)
    target = replace(target, sublabels={**target.sublabels, "color": torch.full((count,), UNKNOWN)})
    losses = criterion(network(images[:1]), [target], points(1))
    assert losses["loss_color"].tolist() == [0.0] * 4
    assert torch.isfinite(criterion.total(losses))
