"""Located queries: peaks of a heat map, ellipses from moments, and the loss that teaches both."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytune_m2f.model import MultiTaskMaskFormer, Target
from raytune_m2f.model.object_loss import focal_loss, gaussians, moments, object_losses
from raytune_m2f.model.query_selection import (
    Blobs,
    MaskPrior,
    ObjectMaps,
    QuerySelection,
    cell_middles,
    coordinate_features,
    ellipse_coefficients,
    log_covariance,
    peaks,
    precision,
    repetitions,
)
from raytune_m2f.model.structures import TargetBatch

CPU = torch.device("cpu")


def ellipse(height: int, width: int, x: float, y: float, long: float, short: float, degrees: float) -> Tensor:
    """(H, W) of 0 and 1; x and y from the left and from the top, in pixels."""
    dx, dy = (cell_middles(height, width, CPU) + torch.tensor([width / 2 - x, height / 2 - y])).unbind(-1)
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (((dx * c + dy * s) / long) ** 2 + ((dy * c - dx * s) / short) ** 2 <= 1).float().view(height, width)


ELLIPSES = [(50, 70, 30, 12, 30), (64, 64, 20, 20, 0), (90.5, 31.25, 25, 8, 135), (30, 90, 9, 24, 0)]


@pytest.mark.parametrize("place", ELLIPSES)
def test_the_moments_of_a_solid_ellipse_are_its_centre_and_half_its_radii(place: tuple[float, ...]) -> None:
    x, y, long, short, degrees = place
    blobs = moments(ellipse(128, 96 + 32, *place)[None], (32, 32))
    torch.testing.assert_close(blobs.centre[0] * 4 + 64, torch.tensor([x, y]).float(), atol=0.1, rtol=0)
    m, p, q = blobs.shape[0]
    assert float(m) == pytest.approx(math.log(long * short / 4 / 16), abs=0.06)
    assert float(torch.hypot(p, q)) == pytest.approx(abs(math.log(long / short)), abs=0.06)
    turned = degrees if long >= short else degrees + 90
    if long != short:
        assert math.cos(math.atan2(q, p) - math.radians(2 * turned)) > 0.99


@pytest.mark.parametrize("place", ELLIPSES)
def test_the_first_mask_of_a_right_blob_is_the_object(place: tuple[float, ...]) -> None:
    mask = ellipse(128, 128, *place)
    blobs = moments(mask[None], (32, 32))
    logits = ellipse_coefficients(blobs, torch.full((1, 1), 2.0)) @ coordinate_features(32, 32, CPU).flatten(1)
    found = F.interpolate(logits.view(1, 1, 32, 32), scale_factor=4, mode="bilinear")[0, 0] > 0
    overlap = (found & mask.bool()).sum() / (found | mask.bool()).sum()
    assert overlap > 0.85
    assert logits.max() <= 2 + 1e-4


def test_covariance_and_logarithm_are_each_others_inverse() -> None:
    rng = torch.Generator().manual_seed(0)
    root = torch.randn(200, 2, 2, generator=rng, dtype=torch.float64)
    covariance = root @ root.mT + 0.05 * torch.eye(2, dtype=torch.float64)
    shape = log_covariance(covariance[:, 0, 0], covariance[:, 1, 1], covariance[:, 0, 1])
    xx, yy, xy = precision(shape)
    inverse = torch.stack((xx, xy, xy, yy), -1).view(-1, 2, 2)
    torch.testing.assert_close(inverse @ covariance, torch.eye(2).double().expand(200, 2, 2), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(0.0, 0.0, 0.0), (100.0, 50.0, -50.0), (-100.0, -50.0, 50.0)])
def test_a_blob_of_any_three_numbers_is_finite_and_so_is_its_gradient(shape: tuple[float, ...]) -> None:
    numbers = torch.tensor([shape], requires_grad=True)
    coefficients = ellipse_coefficients(Blobs(torch.zeros(1, 2), numbers), torch.ones(1, 1))
    coefficients.sum().backward()
    assert torch.isfinite(coefficients).all()
    assert numbers.grad is not None
    assert torch.isfinite(numbers.grad).all()


def test_a_blob_that_moves_takes_its_mask_along() -> None:
    """Wherever it is, and however large the map: what is said of a place is relative to the object."""
    blobs = Blobs(torch.tensor([[-3.0, 5.0], [4.0, -2.0]]), torch.tensor([[1.0, 0.3, -0.2]]).expand(2, 3))
    there, here = gaussians(blobs, 40, 40).view(2, 40, 40)
    torch.testing.assert_close(there.roll((-7, 7), (0, 1)), here, atol=1e-4, rtol=1e-3)
    larger = gaussians(blobs, 80, 80).view(2, 80, 80)[:, 20:60, 20:60]
    torch.testing.assert_close(larger, torch.stack((there, here)), atol=1e-4, rtol=1e-3)


def test_peaks_come_first_then_the_best_of_the_others() -> None:
    heat = torch.zeros(2, 4, 5) - 5
    heat[0, 1, 1], heat[0, 1, 2], heat[0, 3, 4] = 3, 2.5, 1  # the second is beside the first
    heat[1, 0, 4], heat[1, 3, 0] = -1, 4
    flat = -5 - torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    cells = peaks(torch.where(heat == -5, flat, heat), 20)
    assert cells[0, :2].tolist() == [6, 19]
    assert cells[1, :2].tolist() == [15, 4]
    assert cells[0].tolist().index(7) < 12
    assert sorted(cells[0].tolist()) == list(range(20))
    assert peaks(heat, 50).shape == (2, 50)  # more than there are cells


def gaussian_distance(blobs: Blobs, i: int, j: int) -> float:
    """Bhattacharyya's, from the covariances as matrices."""
    one, other = (
        torch.linalg.matrix_exp(torch.tensor([[m + p, q], [q, m - p]], dtype=torch.float64))
        for m, p, q in (blobs.shape[0, k].tolist() for k in (i, j))
    )
    mean, apart = (one + other) / 2, (blobs.centre[0, i] - blobs.centre[0, j]).double()
    spread = mean.det().log() - (one.det().log() + other.det().log()) / 2
    return float(apart @ mean.inverse() @ apart / 8 + spread / 2)


@pytest.mark.parametrize("seed", range(3))
def test_what_repeats_a_better_blob_is_found_as_one_by_one(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    blobs = Blobs(4 * torch.randn(1, 40, 2, generator=rng), 0.5 * torch.randn(1, 40, 3, generator=rng) + 1)
    kept: list[int] = []
    for i in range(40):
        if all(gaussian_distance(blobs, i, j) >= 0.5 for j in kept):
            kept.append(i)
    assert 5 < len(kept) < 30
    assert (~repetitions(blobs)[0]).nonzero()[:, 0].tolist() == kept


def test_neighbours_that_touch_and_a_small_one_inside_a_large_one_do_not_repeat_each_other() -> None:
    radius, tiny = 2.0, 0.5
    centres = torch.tensor([[[0.0, 0.0], [2 * radius, 0.0], [0.0, 0.0], [0.2 * radius, 0.0]]])
    sizes = [2 * math.log(r / 2) for r in (radius, radius, tiny, radius)]
    shape = torch.tensor([[[m, 0.0, 0.0] for m in sizes]])
    assert repetitions(Blobs(centres, shape)).tolist() == [[False, False, False, True]]


def test_a_query_that_repeats_another_changes_nothing(
    make_network: Callable[..., MultiTaskMaskFormer], images: list[Tensor]
) -> None:
    """With twice as many queries as there are distinct blobs the others' outputs stay."""
    torch.manual_seed(0)
    network = make_network({"color": 4}, num_queries=40).eval()
    if network.sem_seg_head.predictor.query_selection is None:
        pytest.skip("learnable queries")
    outputs = network(images[:1])
    assert outputs.distinct is not None
    count = int(outputs.distinct.sum())
    assert 0 < count < 20
    assert outputs.distinct[0, :count].all()
    network.sem_seg_head.predictor.query_selection.num_queries = 20
    fewer = network(images[:1])
    torch.testing.assert_close(fewer.pred_logits[:, :, :count], outputs.pred_logits[:, :, :count])
    torch.testing.assert_close(fewer.mask_embed[:, :, :count], outputs.mask_embed[:, :, :count])


def test_the_focal_loss_is_the_papers() -> None:
    rng = torch.Generator().manual_seed(0)
    logits, heat = torch.randn(3, 5, generator=rng), torch.rand(3, 5, generator=rng)
    heat[0, 0] = heat[2, 3] = 1
    want = 0.0
    for x, t in zip(logits.flatten().tolist(), heat.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        want -= (1 - p) ** 2 * math.log(p) if t == 1 else (1 - t) ** 4 * p**2 * math.log(1 - p)
    assert float(focal_loss(logits, heat)) == pytest.approx(want, rel=1e-5)


def perfect_maps(batch: TargetBatch, h: int, w: int) -> ObjectMaps:
    """What says at every cell what the nearest centre is."""
    truth = moments(batch.masks, (h, w))
    B = len(batch.sizes)
    heat, centre, shape = torch.full((B, h * w), -9.0), torch.zeros(B, 2, h * w), torch.zeros(B, 3, h * w)
    middles = cell_middles(h, w, CPU)
    for image in range(B):
        own = (batch.images == image).nonzero()[:, 0]
        distance = (middles[:, None] - truth.centre[own]).norm(dim=-1)  # (h * w, n)
        nearest = own[distance.argmin(1)]
        heat[image, distance.argmin(0)] = 9.0
        centre[image] = (truth.centre[nearest] - middles).T
        shape[image] = truth.shape[nearest].T
    return ObjectMaps(heat.view(B, h, w), centre.view(B, 2, h, w), shape.view(B, 3, h, w))


def two_images() -> list[Target]:
    masks = [ellipse(64, 64, *place) for place in ((22, 21, 8, 5, 30), (46, 41, 6, 6, 0), (30, 29, 12, 6, 90))]
    return [
        Target(torch.tensor([0, 1]), torch.stack(masks[:2]).bool()),
        Target(torch.tensor([0]), torch.stack(masks[2:]).bool()),
    ]


def test_right_maps_have_no_loss_and_wrong_ones_have() -> None:
    batch = TargetBatch.of(two_images())
    maps, number = perfect_maps(batch, 16, 16), torch.tensor(3.0)
    heat, blob = object_losses(maps, batch, number)
    assert float(heat) < 0.05
    assert float(blob) < 1e-4
    for wrong in (
        ObjectMaps(maps.heat.roll(3, 2), maps.centre, maps.shape),
        ObjectMaps(maps.heat, maps.centre + 1, maps.shape),
        ObjectMaps(maps.heat, maps.centre, maps.shape + 0.5),
    ):
        assert sum(float(x) for x in object_losses(wrong, batch, number)) > 0.4


def test_losses_of_images_add_up_to_that_of_the_batch() -> None:
    targets, number = two_images(), torch.tensor(3.0)
    rng = torch.Generator().manual_seed(0)
    maps = ObjectMaps(*(torch.randn(2, *size, 16, 16, generator=rng) for size in ((), (2,), (3,))))
    whole = object_losses(maps, TargetBatch.of(targets), number)
    parts = [
        object_losses(
            ObjectMaps(maps.heat[i, None], maps.centre[i, None], maps.shape[i, None]), TargetBatch.of([target]), number
        )
        for i, target in enumerate(targets)
    ]
    for total, *shares in zip(whole, *parts, strict=True):
        torch.testing.assert_close(total, torch.stack(shares).sum(0))


def test_a_prior_starts_as_the_blob_and_every_number_of_it_can_be_learnt() -> None:
    torch.manual_seed(0)
    prior, decoded = MaskPrior(8), torch.randn(2, 5, 8)
    blobs = Blobs(torch.randn(2, 5, 2), torch.randn(2, 5, 3))
    torch.testing.assert_close(prior(decoded, blobs), ellipse_coefficients(blobs, torch.full((2, 5, 1), 2.0)))
    prior(decoded, blobs).square().sum().backward()
    assert prior.refine.weight.grad is not None
    assert (prior.refine.weight.grad.abs().sum(1) > 0).all()


def test_queries_stand_where_the_map_is_hot(
    make_network: Callable[..., MultiTaskMaskFormer], images: list[Tensor]
) -> None:
    """And their first masks lie there, each of the size that the map says."""
    network = make_network({}).eval()
    selection = network.sem_seg_head.predictor.query_selection
    if selection is None:
        pytest.skip("learnable queries")
    nn.init.zeros_(selection.maps.weight)
    assert selection.maps.bias is not None
    selection.maps.bias.data[3] = 2 * math.log(1.4)
    selection.maps.register_forward_hook(lambda module, args, maps: _hot(maps))
    outputs = network(images)
    first = torch.einsum("qd,dhw->qhw", outputs.mask_embed[0, 0, :, 32:], outputs.mask_features[0, 32:])
    for query, (row, column) in enumerate(HOT):
        inside = (first[query] > 0).nonzero().float()
        torch.testing.assert_close(inside.mean(0), torch.tensor([row, column]).float(), atol=0.05, rtol=0)
        assert len(inside) == pytest.approx(math.pi * 2.8**2, abs=4)


HOT = ((3, 4), (3, 10), (9, 6))
"""Rows and columns, the hottest first."""


def _hot(out: Tensor) -> Tensor:
    out = out.clone()
    for number, (row, column) in enumerate(HOT):
        out[:, 0, row, column] = 9.0 - number
    return out


def test_wide_mask_features_are_chosen_from_too() -> None:
    torch.manual_seed(0)
    selection = QuerySelection(mask_dim=128, in_channels=32, hidden_dim=16, num_queries=5)
    selected = selection(torch.randn(2, 32, 4, 4), torch.randn(2, 128, 8, 8, requires_grad=True))
    assert selected.content.shape == selected.position.shape == (2, 5, 16)
    (selected.content.sum() + selected.maps.heat.sum()).backward()
    assert isinstance(selection.project, nn.Conv2d)
    assert selection.project.weight.grad is not None
