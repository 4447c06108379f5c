"""Mask R-CNN of detectron2's, tuned like ours (pytest -m detectron2)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.config import Config
from raytune_m2f.drive.preflight import check_before_start
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import ConfigError, ModelError, StudyError
from raytune_m2f.export import export_run, load_export
from raytune_m2f.launch.trial import run_training
from raytune_m2f.predict import evaluate_export
from raytune_m2f.study.space import SearchSpace, check_space
from raytune_m2f.training import checkpoint
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import train_trial

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")

LEVELS = ["res2", "res3", "res4", "res5"]
SPACE = {
    "SOLVER.BASE_LR": {"type": "loguniform", "low": 1e-3, "high": 1e-1},
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": {"type": "categorical", "choices": [16, 32]},
}


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    """The smallest Mask R-CNN: ResNet-18-FPN, GroupNorm, for batch norm sees how a batch is split."""
    given = tiny_config.to_dict()
    values: dict[str, Any] = {
        "ENGINE": "detectron2",
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "MASK_ON": True,
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
            "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "NORM": "GN", "OUT_FEATURES": LEVELS},
            "FPN": {"IN_FEATURES": LEVELS, "OUT_CHANNELS": 32},
            "ANCHOR_GENERATOR": {"SIZES": [[8], [16], [32], [64], [128]]},
            "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "POST_NMS_TOPK_TEST": 50},
            "ROI_HEADS": {
                "NAME": "StandardROIHeads",
                "IN_FEATURES": ["p2", "p3", "p4", "p5"],
                "NUM_CLASSES": 3,
                "BATCH_SIZE_PER_IMAGE": 16,
                "SCORE_THRESH_TEST": 0.0,
            },
            "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 32, "POOLER_RESOLUTION": 7},
            "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16},
        },
        "DATASETS": {key: given["DATASETS"][key] for key in ("REGISTER", "TRAIN", "TEST")},
        "DATALOADER": {"NUM_WORKERS": 0},
        "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64, "MASK_FORMAT": "bitmask"},
        "SOLVER": {"IMS_PER_BATCH": 4, "MAX_ITER": 4, "STEPS": [], "WARMUP_ITERS": 2, "BASE_LR": 1e-3},
        "TEST": {"EVAL_PERIOD": 2, "IMS_PER_BATCH": 2, "DETECTIONS_PER_IMAGE": 10},
    }
    return Config.from_dict(values, source="test")


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("mask_rcnn")
    train_trial(config, TrialContext(output))
    return output


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "checkpoints/iter_0000004.pth", weights_only=True)["model"]
    return state


def reports(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_report_has_boxes_masks_and_losses(run: Path) -> None:
    last = reports(run)[-1]
    assert {"segm/AP", "segm/AP50", "segm/AR10", "bbox/AP", "segm/AP_se", "loss_mask", "loss_rpn_cls"} <= last.keys()
    assert last["loss"] == pytest.approx(sum(v for k, v in last.items() if k.startswith("loss_")))


def test_training_on_after_a_restore_is_training_without_a_break(config: Config, run: Path, tmp_path: Path) -> None:
    train_trial(config, TrialContext(tmp_path, report=lambda report: True))
    train_trial(config, TrialContext(tmp_path))
    for name, value in weights(run).items():
        assert torch.equal(value, weights(tmp_path)[name]), name
    for before, after in zip(reports(run), reports(tmp_path), strict=True):
        for key in before.keys() - {"seconds", "latency_ms", "memory_gb"}:
            assert before[key] == after[key], key


def test_weights_are_averaged_and_what_is_learned_is_the_same(config: Config, run: Path, tmp_path: Path) -> None:
    averaging = config.with_values({"MODEL_EMA.ENABLED": True})
    train_trial(averaging, TrialContext(tmp_path, report=lambda report: True))
    train_trial(averaging, TrialContext(tmp_path))
    last = {folder: checkpoint.load(checkpoint.newest_first(folder / "checkpoints")[0]) for folder in (run, tmp_path)}
    learned = last[tmp_path]["learned"]
    assert learned
    for name, value in last[run]["model"].items():
        assert torch.equal(learned.get(name, last[tmp_path]["model"][name]), value), name


def test_batches_do_not_depend_on_the_workers(config: Config) -> None:
    engine = build_engine(config)
    whole = list(engine.train_batches(rank=0, world_size=1, start_iteration=0))
    parts = [list(engine.train_batches(rank=rank, world_size=2, start_iteration=2)) for rank in range(2)]
    assert len(parts[0]) == 2
    for batch, shares in zip(whole[2:], zip(*parts, strict=True), strict=True):
        for one, other in zip(batch, [*shares[0], *shares[1]], strict=True):
            assert torch.equal(one["image"], other["image"])
            assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)


def test_losses_are_shares_of_the_global_batch(config: Config, tmp_path: Path) -> None:
    """Twice the same two images are worth as much as once."""
    engine = build_engine(config)
    pair = next(engine.train_batches(rank=0, world_size=1, start_iteration=0))[:2]
    stepper = Stepper.build(config, engine.learner(), TrialContext(tmp_path))
    learner, place = stepper.learner, (0, 0, 0)
    once, _ = learner.losses(learner.model, pair, torch.tensor([2.0]), stepper.autocast(), place)
    half, terms = learner.losses(learner.model, pair, torch.tensor([4.0]), stepper.autocast(), place)
    assert half.item() == pytest.approx(once.item() / 2)
    assert sum(terms.values()).item() == pytest.approx(half.item())  # type: ignore[union-attr]


def test_solver_keys_are_honoured(config: Config) -> None:
    values = {"SOLVER.MOMENTUM": 0.5, "SOLVER.LR_SCALING": "linear", "SOLVER.REFERENCE_BATCH": 8}
    clipped = {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1}
    changed = config.with_values({**values, **clipped})
    learner = build_engine(changed).learner()
    optimizer = learner.optimizer(changed)
    assert type(optimizer).__name__ == "SGDWithGradientClip"
    assert {group["momentum"] for group in optimizer.param_groups} == {0.5}
    rate = max(group["lr"] for group in optimizer.param_groups)
    assert rate * learner.schedule(changed)(2) == pytest.approx(5e-4)


def test_an_export_scores_what_its_report_says(run: Path, tmp_path: Path, tiny_dataset: dict[str, Path]) -> None:
    report = export_run(run, tmp_path / "model")
    assert "GeneralizedRCNN of detectron2" in (tmp_path / "model/README.md").read_text()
    exported = load_export(tmp_path / "model", torch.device("cpu"))
    evaluator = evaluate_export(exported, tiny_dataset["val_annotations"], tiny_dataset["val_images"])
    assert evaluator.evaluate()["segm/AP"] == pytest.approx(report["segm/AP"], abs=0.5)  # a batch of one, not two


def test_weights_are_taken_by_detectron2s_names(config: Config, run: Path, tmp_path: Path) -> None:
    learner = build_engine(config).learner()
    learner.load_weights(str(run / "checkpoints/best.pth"))
    stored = torch.load(run / "checkpoints/best.pth", weights_only=True)["model"]
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, stored[name]), name
    torch.save({"model": {"nowhere": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="none of its tensors fits"):
        learner.load_weights(str(tmp_path / "other.pth"))


def test_a_study_of_its_keys_passes_the_checks(config: Config) -> None:
    space = SearchSpace.from_dict(SPACE, source="test")
    check_space(space, config)
    assert check_before_start(config, space, workers=2) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MODEL.ROI_HEADS.NUM_CLASSES": 80}, r"NUM_CLASSES = 80, but .* has 3 categories\. Set it to 3\."),
        ({"INPUT.MASK_FORMAT": "polygon"}, "set it to bitmask"),
        ({"DATASETS.TRAIN": ["elsewhere"]}, "neither in DATASETS.REGISTER nor in detectron2's catalog"),
    ],
)
def test_what_would_go_wrong_later_is_said_first(config: Config, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_engine(config.with_values(values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"MODEL.FPN.IN_FEATURES": ["res9"]}, r"MODEL\.META_ARCHITECTURE 'GeneralizedRCNN' .*res9"),
        (
            {"SOLVER.CLIP_GRADIENTS.ENABLED": True, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "by"},
            r"optimizer \(SOLVER\) .*by",
        ),
        ({"SOLVER.LR_SCHEDULER_NAME": "Poly"}, r"schedule \(SOLVER\) .*Unknown LR scheduler: Poly"),
        ({"INPUT.CROP.ENABLED": True, "INPUT.CROP.TYPE": "half"}, r"mapper \(INPUT\) .*assert crop_type in"),
    ],
)
def test_what_detectron2_cannot_build_is_one_error_before_a_study(
    config: Config, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"detectron2 cannot build .*{message}"):
        check_before_start(config.with_values(values), SearchSpace.from_dict(SPACE, source="test"), workers=1)


def test_a_network_without_instances_is_refused(config: Config) -> None:
    proposals = config.with_values({"MODEL.META_ARCHITECTURE": "ProposalNetwork"})
    learner = build_engine(proposals).learner()
    learner.model.eval()
    with pytest.raises(ConfigError, match=r"'ProposalNetwork' predicts proposals, but only instances are scored"):
        learner.predict([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])


def test_a_network_without_masks_is_ranked_by_its_boxes(config: Config, tmp_path: Path) -> None:
    boxes = config.with_values({"MODEL.MASK_ON": False, "SOLVER.MAX_ITER": 1})
    report = run_training(boxes, tmp_path / "run", gpus_per_worker=0)
    assert "bbox/AP" in report
    assert "segm/AP" not in report
    space = SearchSpace.from_dict(SPACE, source="test")
    with pytest.raises(StudyError, match=r"no report will have 'segm/AP'.*bbox/AP"):
        check_before_start(boxes, space, workers=1, asked=[Objective.parse("segm/AP")])
    export_run(tmp_path / "run", tmp_path / "model")
    exported = load_export(tmp_path / "model", torch.device("cpu"))
    with pytest.raises(ModelError, match="predicts no masks"):
        exported.predict([torch.zeros(3, 64, 64, dtype=torch.uint8)], [(64, 64)])
