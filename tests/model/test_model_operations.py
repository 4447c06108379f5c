"""What a step costs in operations and in transfers to the host: counted, so that it does not depend on the machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from raytune_m2f.model import LossWeights, MultiTaskMaskFormer, RandomPoints, SetCriterion, Target, count_targets
from raytune_m2f.model.matcher import layers_at_once

MakeTarget = Callable[..., Target]


class Operations(TorchDispatchMode):
    """Counts what torch executes, views included."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


class Transfers(TorchFunctionMode):
    """Counts the calls that make the host wait for a device: to read from it, or to copy a list to it."""

    WAITING = frozenset(
        (
            "cpu",
            "item",
            "tolist",
            "__bool__",
            "__int__",
            "__float__",
            "__index__",
            "nonzero",
            "masked_select",
            "unique",
            "tensor",
            "new_tensor",
            "as_tensor",
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.WAITING:
            self.calls[name] += 1
        return func(*args, **(kwargs or {}))


OF_MAPS = 250
"""Operations of the heat map's loss, at most, however many instances there are."""


@pytest.fixture
def loss(
    images: list[Tensor], make_target: MakeTarget, make_network: Callable[..., MultiTaskMaskFormer]
) -> Callable[..., bool]:
    """Matching and loss of two images, as a training step calls them."""

    def run(mode: Any, heads: dict[str, int], decoder_layers: int = 3, *, count: int = 4) -> bool:
        net = make_network(heads, decoder_layers=decoder_layers)
        targets = [make_target(count, 1, heads=heads), make_target(2, 2, heads=heads)]
        outputs, counts = net(images), count_targets(targets, net.num_queries, net.heads).float()
        criterion = SetCriterion(LossWeights(), num_points=64, oversample_ratio=3.0, importance_sample_ratio=0.75)
        points = RandomPoints([1, 2], torch.device("cpu"))
        with mode:
            criterion(outputs, targets, points, counts)
        return outputs.maps is not None

    return run


def operations(loss: Callable[..., bool], *args: Any, **options: Any) -> int:
    """How many it takes, without those that the maps of located queries take."""
    mode = Operations()  # type: ignore[no-untyped-call]
    has_maps = loss(mode, *args, **options)
    return mode.count - OF_MAPS * has_maps


def test_matching_and_loss_take_at_most_200_operations(loss: Callable[..., bool]) -> None:
    """Mask2Former's take 1,732 for the same ten outputs."""
    assert 100 <= operations(loss, {}, 9) <= 200


def test_layers_are_taken_together_where_they_fit() -> None:
    """On a GPU the published recipe's ten outputs at batch 8, with the images full of instances."""
    floats = 8 * 12544 * (100 + 256 + 100)
    assert layers_at_once(floats, torch.device("cuda")) >= 10
    assert layers_at_once(floats, torch.device("cpu")) == 1


def test_operations_do_not_grow_with_layers_or_instances(loss: Callable[..., bool]) -> None:
    assert operations(loss, {}, 9) == operations(loss, {}, 3) == operations(loss, {}, 3, count=6)


def test_a_subcategory_head_adds_few_operations(loss: Callable[..., bool]) -> None:
    assert operations(loss, {"a": 3, "b": 4}) - operations(loss, {}) <= 2 * 25


@pytest.mark.parametrize("count", [0, 4, 9])  # none, some, and more than there are queries
def test_the_host_waits_once_for_the_device(loss: Callable[..., bool], count: int) -> None:
    mode = Transfers()
    loss(mode, {"a": 3, "b": 4}, count=count)
    assert mode.calls == {"cpu": 1}
