"""Going on from a checkpoint, of the trial itself or of another one with other learning rates."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.errors import ConfigError
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network
from raytune_m2f.learner.weight_files import read_state_dict
from raytune_m2f.training import checkpoint
from raytune_m2f.training.checkpoint import snapshot
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import train_trial

CATEGORIES = Categories(ids=(1, 2, 3), names=("a", "b", "c"), subcategories={"color": ("x", "y")})
STEPS = 3
SOLVER = {"MAX_ITER": 8, "LR_SCHEDULER_NAME": "WarmupCosineLR", "WARMUP_ITERS": 2, "BACKBONE_MULTIPLIER": 0.1}


@pytest.fixture
def config(tiny_config: Config) -> Config:
    return tiny_config.with_values({f"SOLVER.{key}": value for key, value in SOLVER.items()})


def stepper_of(config: Config, tmp_path: Path) -> Stepper:
    return Stepper.build(config, MaskFormerLearner(config, build_network(config, CATEGORIES)), TrialContext(tmp_path))


def stepped(config: Config, tmp_path: Path, steps: int = STEPS) -> Stepper:
    """A stepper after steps with random gradients."""
    stepper = stepper_of(config, tmp_path)
    for iteration in range(steps):
        random_step(stepper, iteration)
    return stepper


def random_step(stepper: Stepper, iteration: int) -> None:
    rng = torch.Generator().manual_seed(7)
    for _, parameter in stepper.model.named_parameters():
        parameter.grad = torch.rand(parameter.shape, generator=rng) - 0.5
    stepper.update(iteration)


def state_of(stepper: Stepper) -> dict[str, Any]:
    state: dict[str, Any] = snapshot({**stepper.state(), "config": stepper.config.to_dict(), "iteration": STEPS})
    return state


def moments(stepper: Stepper) -> dict[str, dict[str, torch.Tensor]]:
    return {name: stepper.optimizer.state[parameter] for name, parameter in stepper.model.named_parameters()}


def assert_same(first: Any, second: Any) -> None:
    """Exactly the same, tensors included."""
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def rates(stepper: Stepper) -> list[float]:
    return [group["lr"] for group in stepper.optimizer.param_groups]


def test_an_unchanged_configuration_restores_exactly(config: Config, tmp_path: Path) -> None:
    before = stepped(config, tmp_path)
    after = stepper_of(config, tmp_path)
    after.restore(state_of(before))
    for key in ("model", "optimizer", "scaler"):
        assert repr(after.state()[key]) == repr(before.state()[key])
    assert_same(moments(after), moments(before))
    assert (rates(after), after.lr) == (rates(before), before.lr)
    for stepper in (before, after):
        random_step(stepper, STEPS)
    assert_same(after.model.state_dict(), before.model.state_dict())
    assert (rates(after), after.lr) == (rates(before), before.lr)


def test_a_new_rate_goes_on_from_the_same_place_of_the_schedule(config: Config, tmp_path: Path) -> None:
    before = stepped(config, tmp_path)
    after = stepper_of(config.with_values({"SOLVER.BASE_LR": 3e-3, "SOLVER.WEIGHT_DECAY": 0.2}), tmp_path)
    after.restore(state_of(before))
    for iteration in (STEPS, STEPS + 1):
        assert rates(after) == pytest.approx([3 * rate for rate in rates(before)])
        assert after.lr == pytest.approx(3 * before.lr)
        for stepper in (before, after):
            random_step(stepper, iteration)
    assert max(group["weight_decay"] for group in after.optimizer.param_groups) == 0.2


def test_moments_find_their_parameters_where_the_groups_are_others(config: Config, tmp_path: Path) -> None:
    before = stepped(config, tmp_path)
    after = stepper_of(config.with_values({"SOLVER.BACKBONE_MULTIPLIER": 1.0}), tmp_path)
    assert len(after.optimizer.param_groups) < len(before.optimizer.param_groups)
    after.restore(state_of(before))
    assert_same(moments(after), moments(before))
    assert rates(after) == [max(rates(before))] * len(after.optimizer.param_groups)


def test_a_directory_with_a_checkpoint_of_another_trial_goes_on_from_it(tiny_config: Config, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    train_trial(tiny_config, TrialContext(theirs, report=lambda report: report["iteration"] == 2))
    (ours / "checkpoints").mkdir(parents=True)
    shutil.copy(theirs / "checkpoints/iter_0000002.pth", ours / "checkpoints")
    told: list[int] = []

    def report(report: dict[str, Any]) -> bool:
        told.append(report["iteration"])
        return False

    train_trial(
        tiny_config.with_values({"SOLVER.BASE_LR": 2e-3}), TrialContext(ours, report=report, keep=frozenset({2}))
    )
    assert told == [2, 4]
    first, last = read_reports(ours)
    assert first == read_reports(theirs)[0]
    assert (first["lr"], last["lr"]) == (1e-3, 2e-3)
    assert checkpoint.load(ours / "checkpoints/best.pth")["report"] == last


def test_a_best_model_without_a_checkpoint_is_of_a_run_that_has_gone(tiny_config: Config, tmp_path: Path) -> None:
    stale = {"model": {}, "report": {"iteration": 1, "segm/AP": 99.0, "images": 6}}
    checkpoint.save(stale, tmp_path / "checkpoints/best.pth")
    last = train_trial(tiny_config.with_values({"SOLVER.MAX_ITER": 1}), TrialContext(tmp_path))
    assert checkpoint.load(tmp_path / "checkpoints/best.pth")["report"] == last


FROZEN = {
    "MODEL.WEIGHTS": "package://efficientnet-lite0",
    "MODEL.PIXEL_MEAN": [127, 127, 127],
    "MODEL.PIXEL_STD": [128, 128, 128],
    "MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 2,
}


@pytest.mark.parametrize("norm", ["FrozenStatsBN", "BN"])
def test_frozen_stages_stay_and_going_on_equals_no_break(tiny_config: Config, tmp_path: Path, norm: str) -> None:
    config = tiny_config.with_values({**FROZEN, "MODEL.EFFICIENTNET_LITE.NORM": norm})
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    train_trial(config, TrialContext(whole))
    train_trial(config, TrialContext(broken, report=lambda report: True))  # stopped at its first report
    train_trial(config, TrialContext(broken))
    ours, theirs = (checkpoint.load(folder / "checkpoints/iter_0000004.pth") for folder in (broken, whole))
    assert_same(ours["model"], theirs["model"])
    assert repr(ours["optimizer"]) == repr(theirs["optimizer"])
    published = read_state_dict(config.MODEL.WEIGHTS)
    kept = {name for name, value in ours["model"].items() if torch.equal(value, published.get(name[9:], value + 1))}
    frozen = {f"backbone.{name}" for name in published if name.startswith(("_conv_stem", "_bn0", *BLOCKS_OF_RES2))}
    statistics = {f"backbone.{name}" for name in published if name.endswith(STATISTICS) and not name.startswith("_bn1")}
    assert {name for name in kept if not name.endswith("num_batches_tracked")} == {
        name
        for name in (frozen | statistics if norm == "FrozenStatsBN" else frozen)
        if not name.endswith("num_batches_tracked")
    }


BLOCKS_OF_RES2 = tuple(f"_blocks.{number}." for number in range(3))
STATISTICS = ("running_mean", "running_var")


@pytest.mark.parametrize(("before", "after"), [(2, 0), (0, 3)])
def test_other_frozen_stages_are_another_training(tiny_config: Config, tmp_path: Path, before: int, after: int) -> None:
    config = tiny_config.with_values(FROZEN)
    train_trial(
        config.with_values({"MODEL.BACKBONE.FREEZE_AT": before}), TrialContext(tmp_path, report=lambda report: True)
    )
    with pytest.raises(ConfigError, match=r"\d+ tensors learned then, \d+ would now\.") as caught:
        train_trial(config.with_values({"MODEL.BACKBONE.FREEZE_AT": after}), TrialContext(tmp_path))
    assert f"MODEL.BACKBONE.FREEZE_AT was {before}, is {after}" in str(caught.value)
