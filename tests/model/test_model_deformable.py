"""Deformable attention: its two forms give the same, and what it reads is where the paper says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from raytune_m2f.model.deformable_attention import (
    MSDeformAttn,
    Shapes,
    cell_places,
    deformable_sampling,
    sample_by_grid,
    sample_by_rows,
)

SHAPES: Shapes = [(2, 3), (4, 5), (7, 9)]
CELLS = sum(h * w for h, w in SHAPES)
CPU = torch.device("cpu")


def inputs(spread: float) -> dict[str, Tensor]:
    """Two images, three heads of four channels, five points; `spread` cells around the middle of each level."""
    rng = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng, dtype=torch.float64)

    middle = torch.tensor([[w / 2 for _, w in SHAPES], [h / 2 for h, _ in SHAPES]]).view(2, 1, 3, 1)
    return {
        "value": randn(2, CELLS, 3, 4).requires_grad_(),
        "places": (middle + spread * randn(2, CELLS, 2, 3, 3, 5)).requires_grad_(),
        "weights": randn(2, CELLS, 3, 3, 5).requires_grad_(),
    }


@pytest.mark.parametrize("spread", [1.0, 5.0, 1000.0])
def test_rows_and_grid_give_the_same_values_and_gradients(spread: float) -> None:
    """Also for points on the border, outside of the map, and far away."""
    results = []
    for sample in (sample_by_rows, sample_by_grid):
        x = inputs(spread)
        out = sample(x["value"], SHAPES, x["places"], x["weights"])
        (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
        results.append([out.detach(), *(tensor.grad for tensor in x.values())])
    for rows, grid in zip(*results, strict=True):
        torch.testing.assert_close(rows, grid, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("sample", [sample_by_rows, sample_by_grid])
def test_a_whole_place_reads_its_cell(sample: Any) -> None:
    value = torch.rand(1, CELLS, 2, 3)
    places = torch.tensor([2.0, 1.0]).view(2, 1, 1, 1).expand(1, CELLS, 2, 2, 3, 1)  # column 2, row 1
    weights = torch.zeros(1, CELLS, 2, 3, 1)
    weights[..., 1, :] = 1  # all weight on the second level
    out = sample(value, SHAPES, places, weights)
    torch.testing.assert_close(out[0, 0].view(2, 3), value[0, 6 + 1 * 5 + 2])


def test_a_fresh_head_looks_one_cell_further_with_each_point() -> None:
    """The directional grid: head 0 looks right, head 2 of 8 down; x and y are not mixed up."""
    attention = MSDeformAttn(32, len(SHAPES), 8, 4)
    offsets = attention.offsets(torch.zeros(1, 1, 32)).view(2, 8, 3, 4)
    assert offsets[0, 0].tolist() == [[1.0, 2.0, 3.0, 4.0]] * 3
    torch.testing.assert_close(offsets[1, 2], torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 3))
    torch.testing.assert_close(offsets[0, 2], torch.zeros(3, 4), atol=1e-6, rtol=0)


def test_a_cell_lies_at_its_own_place_on_its_own_level() -> None:
    places = cell_places(SHAPES, CPU)
    assert places.shape == (CELLS, 2, 3)
    torch.testing.assert_close(places[6 + 1 * 5 + 2, :, 1], torch.tensor([2.0, 1.0]))
    torch.testing.assert_close(places[0, :, 1], torch.tensor([0.5 / 3 * 5 - 0.5, 0.5 / 2 * 4 - 0.5]))


@pytest.mark.parametrize("sample", [sample_by_rows, sample_by_grid])
def test_a_place_that_is_not_a_number_gives_a_sum_that_is_none(sample: Any) -> None:
    """So that a diverging trial ends by name, not with an index out of range."""
    x = inputs(1.0)
    with torch.no_grad():
        x["places"][0, 0, :, 1, 2, 3] = float("nan")
    out = sample(x["value"], SHAPES, x["places"], x["weights"])[0, 0]
    assert out.isnan().tolist() == [False] * 4 + [True] * 4 + [False] * 4  # of the second of three heads


@pytest.mark.gpu
def test_a_gpu_gives_what_the_cpu_gives() -> None:
    x = inputs(3.0)
    want = deformable_sampling(x["value"], SHAPES, x["places"], x["weights"])
    got = deformable_sampling(x["value"].cuda(), SHAPES, x["places"].cuda(), x["weights"].cuda())
    torch.testing.assert_close(got.cpu(), want, atol=1e-9, rtol=1e-9)
