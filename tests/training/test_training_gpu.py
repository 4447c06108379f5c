"""What only a GPU shows: its losses, its precisions, its allocator. `benchmarks/gpu_day.sh` runs these.

Those that a CPU can run as well do, so that no mistake waits here for the day on a GPU.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network
from raytune_m2f.model import MultiTaskMaskFormer, RandomPoints, SetCriterion, Target
from raytune_m2f.training.checkpoint import snapshot
from raytune_m2f.training.memory import start_fresh
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import train_trial

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = ["cpu", GPU]
CATEGORIES = Categories(ids=(1, 2, 3), names=("a", "b", "c"), subcategories={"color": ("x", "y")})


class PointsOnDevice(RandomPoints):
    """The points that a CPU draws, on another device, whose own generator would draw others."""

    def __init__(self, device: str) -> None:
        super().__init__([1, 2], torch.device("cpu"))
        self._device = device

    def draw(self, image: int, *shape: int) -> Tensor:
        return super().draw(image, *shape).to(self._device)


def moved(value: Any, device: str) -> Any:
    """A copy of the network's outputs on a device, of which gradients are taken by themselves."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    if isinstance(value, dict):
        return {name: moved(one, device) for name, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: moved(getattr(value, part.name), device) for part in fields(value)})
    return value


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_outputs_have_the_same_loss_and_gradient_on_every_device(
    device: str, network: MultiTaskMaskFormer, images: list[Tensor], criterion: SetCriterion, make_target: object
) -> None:
    assert callable(make_target)
    targets: list[Target] = [make_target(4), make_target(2, 9)]
    with torch.no_grad():
        outputs = network(images)
    found = []
    for place in ("cpu", device):
        here = moved(outputs, place)
        here.mask_features.requires_grad_()
        losses = criterion(here, [target.to(place) for target in targets], PointsOnDevice(place))
        criterion.total(losses).backward()
        assert here.mask_features.grad is not None
        found.append([term.detach().cpu() for term in losses.values()] + [here.mask_features.grad.cpu()])
    for wanted, got in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("device", DEVICES)
def test_mixed_precision_trains_and_evaluates(device: str, precision: str, tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config.with_values({"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.PRECISION": precision})
    last = train_trial(config, TrialContext(tmp_path, device=torch.device(device)))
    assert last["iteration"] == 4
    assert math.isfinite(last["loss"])
    assert last["memory_gb"] > 0


@pytest.mark.parametrize("device", DEVICES)
def test_a_restored_trial_goes_on_with_its_scaler(device: str, tiny_config: Config, tmp_path: Path) -> None:
    """float16 on a GPU: the scale that was found is in the checkpoint. On a CPU there is none, and that is kept too."""
    amp = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.PRECISION": "float16"}
    config = tiny_config.with_values(amp)
    context = TrialContext(tmp_path, device=torch.device(device))

    def build() -> Stepper:
        network = build_network(config, CATEGORIES).to(device)
        return Stepper.build(config, MaskFormerLearner(config, network), context)

    before, after = build(), build()
    for iteration, value in enumerate(
        (1.0, math.inf, 1.0)
    ):  # a gradient that overflows halves the scale, and its step is left out
        for parameter in before.model.parameters():
            parameter.grad = torch.full_like(parameter, value if device == "cuda" else 1.0)
        before.scaler.scale(torch.ones((), device=device))  # as a loss would be: it makes the scale on the device
        before.update(iteration)
    after.restore(snapshot({**before.state(), "config": config.to_dict(), "iteration": 3}))
    assert after.scaler.is_enabled() == (device == "cuda")
    assert after.scaler.state_dict() == before.scaler.state_dict()
    if device == "cuda":
        assert after.scaler.state_dict()["scale"] == 2.0**15
        assert after.autocast().fast_dtype == torch.float16


@pytest.fixture
def whole_gpu() -> Iterator[None]:
    """All of its memory again, afterwards."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def reserved_by(config: Config, output: Path) -> int:
    """The most bytes that torch's allocator held during a training on the GPU."""
    start_fresh()
    train_trial(config, TrialContext(output, device=torch.device("cuda")))
    return torch.cuda.max_memory_reserved()


@pytest.mark.gpu
@pytest.mark.usefixtures("whole_gpu")
def test_a_real_allocator_that_is_out_of_memory_halves_the_micro_batch(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit between what one image at once takes and what all four do."""
    values = {"INPUT.IMAGE_SIZE": 512, "SOLVER.MAX_ITER": 1, "TEST.IMS_PER_BATCH": 1}
    config = tiny_config.with_values(values)
    one = reserved_by(config.with_values({"SOLVER.MICRO_BATCH": 1}), tmp_path / "one")
    four = reserved_by(config, tmp_path / "four")
    assert four > 1.5 * one
    start_fresh()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((one + four) / 2 / total)
    with caplog.at_level(logging.WARNING, "raytune_m2f"):
        train_trial(config, TrialContext(tmp_path / "halved", device=torch.device("cuda")))
    assert "out of memory with 4 images at once (CUDA out of memory" in caplog.text
    (halved,), (wanted,) = read_reports(tmp_path / "halved"), read_reports(tmp_path / "four")
    assert halved["micro_batch"] < 4
    assert halved["loss"] == pytest.approx(wanted["loss"], rel=0.02)
