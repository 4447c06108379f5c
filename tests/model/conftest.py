"""Small networks and random targets: invariants need no data."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from model import MultiTaskMaskFormer, RandomPoints, SetCriterion, Target, build_model
from model.matcher import LossWeights

HEADS = {"color": 4, "texture": 3}
SIZE = 64


@pytest.fixture(scope="session")
def network() -> MultiTaskMaskFormer:
    """A tiny network with two subcategory heads, in evaluation mode."""
    torch.manual_seed(0)
    return tiny_network(HEADS).eval()


def tiny_network(heads: dict[str, int], *, num_queries: int = 6, num_classes: int = 3) -> MultiTaskMaskFormer:
    return build_model(
        num_classes=num_classes,
        subcategories=heads,
        backbone_depth=18,
        backbone_norm="GN",
        conv_dim=32,
        mask_dim=32,
        encoder_layers=1,
        num_queries=num_queries,
        hidden_dim=32,
        num_heads=4,
        dim_feedforward=64,
        decoder_layers=3,
    )


@pytest.fixture
def make_network() -> Callable[..., MultiTaskMaskFormer]:
    return tiny_network


@pytest.fixture
def criterion() -> SetCriterion:
    return SetCriterion(LossWeights(), num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75)


@pytest.fixture
def make_target() -> Callable[..., Target]:
    """Random rectangles with random labels."""

    def make(count: int, seed: int = 0, *, classes: int = 3, heads: dict[str, int] | None = None) -> Target:
        rng = torch.Generator().manual_seed(seed)
        masks = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
        for mask in masks:
            top, left = torch.randint(0, SIZE - 24, (2,), generator=rng).tolist()
            mask[top : top + 20, left : left + 16] = True
        heads = HEADS if heads is None else heads
        labels = {name: torch.randint(0, n, (count,), generator=rng) for name, n in heads.items()}
        return Target(torch.randint(0, classes, (count,), generator=rng), masks, labels)

    return make


class SamePoints(RandomPoints):
    """Points that are the same for every mask, so that the order of instances does not matter."""

    def __init__(self) -> None:
        super().__init__([], torch.device("cpu"))

    def draw(self, image: int, *shape: int) -> torch.Tensor:
        rng = torch.Generator().manual_seed(shape[-1])
        return torch.rand(shape[-1], 2, generator=rng).expand(*shape, 2).contiguous()


@pytest.fixture
def same_points() -> RandomPoints:
    return SamePoints()


@pytest.fixture
def images() -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, SIZE, SIZE), generator=rng, dtype=torch.uint8) for _ in range(2)]
