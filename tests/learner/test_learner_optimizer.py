"""AdamW's groups and the schedules."""

from __future__ import annotations

from typing import Any

import pytest
from weight_cases import network_of

from raytune_m2f.config import Config
from raytune_m2f.learner.optimizer import build_optimizer, effective_lr, schedule_factor


def solver(config: Config, **values: Any) -> Config:
    return config.with_values({f"SOLVER.{key}": value for key, value in values.items()}, source="test")


@pytest.mark.parametrize(("rule", "lr"), [("none", 1e-3), ("linear", 2.5e-4), ("sqrt", 5e-4)])
def test_the_effective_lr_follows_the_batch(tiny_config: Config, rule: str, lr: float) -> None:
    config = solver(tiny_config, LR_SCALING=rule, BASE_LR=1e-3, IMS_PER_BATCH=4, REFERENCE_BATCH=16)
    assert effective_lr(config) == pytest.approx(lr)


def test_optimizer_groups_are_mask2formers(tiny_config: Config) -> None:
    config = solver(tiny_config, BASE_LR=1e-3, BACKBONE_MULTIPLIER=0.1, WEIGHT_DECAY=0.05)
    network = network_of(config)
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


def test_the_positions_of_a_swin_do_not_decay(tiny_config: Config) -> None:
    swin = {"EMBED_DIM": 8, "DEPTHS": [1, 1, 1, 1], "NUM_HEADS": [1, 1, 1, 1]}
    config = tiny_config.with_values(
        {"MODEL.BACKBONE.NAME": "D2SwinTransformer", **{f"MODEL.SWIN.{key}": value for key, value in swin.items()}}
    )
    config = solver(config, BASE_LR=1e-3, BACKBONE_MULTIPLIER=0.1, WEIGHT_DECAY=0.05)
    network = network_of(config)
    groups = build_optimizer(config, network).param_groups
    assert len(groups) == 4
    found = {id(parameter): group for group in groups for parameter in group["params"]}
    for name, parameter in network.backbone.named_parameters():
        free = "norm" in name or ".0.2." in name or name.endswith("relative_position_bias_table")
        assert found[id(parameter)]["weight_decay"] == (0.0 if free else 0.05), name
        assert found[id(parameter)]["lr"] == pytest.approx(1e-4)


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
