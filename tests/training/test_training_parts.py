"""Optimizer, schedules, checkpoints, weights and the reports' file, each alone."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.training import checkpoint, metrics
from raytune_m2f.training.build import build_network
from raytune_m2f.training.optimizer import build_optimizer, effective_lr, schedule_factor
from raytune_m2f.training.weights import load_weights

CATEGORIES = Categories(ids=(1, 2, 3), names=("a", "b", "c"), subcategories={"color": ("x", "y")})


def solver(config: Config, **values: Any) -> Config:
    return config.with_values({f"SOLVER.{key}": value for key, value in values.items()}, source="test")


@pytest.mark.parametrize(("rule", "lr"), [("none", 1e-3), ("linear", 2.5e-4), ("sqrt", 5e-4)])
def test_the_effective_lr_follows_the_batch(tiny_config: Config, rule: str, lr: float) -> None:
    config = solver(tiny_config, LR_SCALING=rule, BASE_LR=1e-3, IMS_PER_BATCH=4, REFERENCE_BATCH=16)
    assert effective_lr(config) == pytest.approx(lr)


def test_optimizer_groups_are_mask2formers(tiny_config: Config) -> None:
    config = solver(tiny_config, BASE_LR=1e-3, BACKBONE_MULTIPLIER=0.1, WEIGHT_DECAY=0.05)
    network = build_network(config, CATEGORIES)
    groups = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in build_optimizer(config, network).param_groups
        for parameter in group["params"]
    }
    named = dict(network.named_parameters())
    assert len(groups) == len(named)
    expected = {
        "backbone.conv1.weight": (1e-4, 0.05),
        "backbone.bn1.weight": (1e-4, 0.0),
        "sem_seg_head.predictor.color_embed.bias": (1e-3, 0.05),
        "sem_seg_head.predictor.query_feat.weight": (1e-3, 0.0),
        "sem_seg_head.predictor.decoder_norm.weight": (1e-3, 0.0),
        "sem_seg_head.pixel_decoder.transformer.level_embed": (1e-3, 0.05),
    }
    for name, group in expected.items():
        assert groups[id(named[name])] == pytest.approx(group), name


def test_schedules_are_detectron2s(tiny_config: Config) -> None:
    steps = solver(tiny_config, MAX_ITER=100, STEPS=[50, 80], GAMMA=0.1, LR_SCHEDULER_NAME="WarmupMultiStepLR")
    assert [schedule_factor(steps, i) for i in (0, 49, 50, 80)] == pytest.approx([1, 1, 0.1, 0.01])
    cosine = solver(tiny_config, MAX_ITER=100, LR_SCHEDULER_NAME="WarmupCosineLR")
    assert [schedule_factor(cosine, i) for i in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    poly = solver(tiny_config, MAX_ITER=100, LR_SCHEDULER_NAME="WarmupPolyLR", POLY_LR_POWER=0.9)
    assert [schedule_factor(poly, i) for i in (0, 50)] == pytest.approx([1, 0.5**0.9])
    warm = solver(poly, WARMUP_ITERS=10, WARMUP_FACTOR=0.1)
    assert schedule_factor(warm, 0) == pytest.approx(0.1)
    assert schedule_factor(warm, 5) == pytest.approx(0.55 * 0.95**0.9)
    constant = solver(warm, WARMUP_METHOD="constant", LR_SCHEDULER_NAME="WarmupMultiStepLR", STEPS=[])
    assert [schedule_factor(constant, i) for i in (9, 10)] == pytest.approx([0.1, 1])


def _state(iteration: int) -> checkpoint.Checkpoint:
    return {"model": {"weight": torch.full((2,), float(iteration))}, "iteration": iteration}


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        checkpoint.save_iteration(_state(iteration), tmp_path)
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["iter_0000015.pth", "iter_0000010.pth"]


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for iteration in (5, 10):
        checkpoint.save_iteration(_state(iteration), tmp_path)
    newest = tmp_path / "iter_0000010.pth"
    newest.write_bytes(newest.read_bytes()[:-200])
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["iteration"] == 5
    assert "iter_0000010.pth" in caplog.text
    assert checkpoint.load_newest(tmp_path / "empty") is None


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pth"
    checkpoint.save(_state(5), path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*Free space"):
        checkpoint.save(_state(10), path)
    assert checkpoint.load(path)["iteration"] == 5
    assert [file.name for file in tmp_path.iterdir()] == ["best.pth"]


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (eval, ("1 / 0",))  # executed, it would raise ZeroDivisionError


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_nothing_in_a_weights_file_is_executed(tiny_config: Config, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"evil{suffix}"
    path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(ModelError, match="cannot be read"):
        load_weights(build_network(tiny_config, CATEGORIES), str(path))


def test_queries_are_cut_or_grown_and_heads_may_be_new(tiny_config: Config, tmp_path: Path) -> None:
    source = build_network(tiny_config, Categories(ids=(1, 2), names=("a", "b")))
    path = tmp_path / "other.pth"
    torch.save({"model": {**source.state_dict(), "criterion.empty_weight": torch.ones(3)}}, path)
    theirs = source.sem_seg_head.predictor.query_feat.weight
    for queries in (5, 11):
        config = tiny_config.with_values({"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": queries}, source="test")
        network = build_network(config, CATEGORIES)
        fresh = network.sem_seg_head.predictor.query_feat.weight.detach().clone()
        loaded = load_weights(network, str(path))
        ours = network.sem_seg_head.predictor.query_feat.weight
        torch.testing.assert_close(ours[:5], theirs[:5])
        torch.testing.assert_close(ours[8:], fresh[8:])
        embeds = ("class_embed", "color_embed")
        assert sorted(loaded.fresh) == sorted(
            f"sem_seg_head.predictor.{e}.{p}" for e in embeds for p in ("weight", "bias")
        )
        assert sorted(loaded.unused) == sorted(f"sem_seg_head.predictor.class_embed.{p}" for p in ("weight", "bias"))


def test_a_detectron2_backbone_loads_from_its_pickle(tiny_config: Config, tmp_path: Path) -> None:
    source = build_network(tiny_config, CATEGORIES)
    arrays = {name: value.numpy() + 1 for name, value in source.backbone.state_dict().items()}
    path = tmp_path / "R-18.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    network = build_network(tiny_config, CATEGORIES)
    loaded = load_weights(network, str(path))
    assert loaded.unused == ()
    assert all(name.startswith("sem_seg_head.") for name in loaded.fresh)
    torch.testing.assert_close(network.backbone.conv1.weight, source.backbone.conv1.weight + 1)  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("source", ["detectron2://ImageNetPretrained/torchvision/R-50.pkl", "no/such/file.pth"])
def test_weights_that_are_not_here_are_refused(tiny_config: Config, source: str) -> None:
    with pytest.raises(ModelError, match=r"is not a file on this machine.*WEIGHTS=''"):
        load_weights(build_network(tiny_config, CATEGORIES), source)


def test_reports_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        metrics.append_report(tmp_path, {"iteration": iteration})
    with (tmp_path / metrics.FILE).open("a") as file:
        file.write('{"iteration": 2')  # a kill while it wrote
    metrics.rewind(tmp_path, {"iteration": 10, "again": True})
    assert metrics.read_reports(tmp_path) == [{"iteration": 5}, {"iteration": 10, "again": True}]
    metrics.rewind(tmp_path, None)
    assert metrics.read_reports(tmp_path) == []
