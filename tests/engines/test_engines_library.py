"""A user's own train_net.py: our network, datasets and mapper in detectron2's hands (pytest -m detectron2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.config import Config

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")


@pytest.fixture
def cfg(tiny_config: Config, tmp_path: Path) -> Any:
    """As train_net.py makes it."""
    from detectron2.config import get_cfg

    from raytune_m2f.engines.detectron2 import add_config, register_datasets

    file = tmp_path / "config.yaml"
    file.write_text(tiny_config.with_values({"MODEL.META_ARCHITECTURE": "MultiTaskMaskFormer"}).to_yaml())
    cfg = get_cfg()
    add_config(cfg)
    cfg.merge_from_file(str(file))
    cfg.MODEL.DEVICE = "cpu"
    register_datasets(cfg)
    return cfg


def test_a_tuned_configuration_trains_in_detectron2(cfg: Any) -> None:
    from detectron2.data import build_detection_train_loader
    from detectron2.modeling import build_model

    from raytune_m2f.engines.detectron2 import MultiTaskMapper

    inputs = next(iter(build_detection_train_loader(cfg, mapper=MultiTaskMapper(cfg), num_workers=0)))
    assert {"gt_classes", "gt_masks", "gt_boxes", "gt_color", "gt_texture"} == set(inputs[0]["instances"].get_fields())
    network = build_model(cfg).train()
    losses = network(inputs)
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice", "loss_color", "loss_texture"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)


def test_its_own_evaluator_scores_it(cfg: Any) -> None:
    from detectron2.data import build_detection_test_loader
    from detectron2.evaluation import COCOEvaluator, inference_on_dataset
    from detectron2.modeling import build_model

    from raytune_m2f.engines.detectron2 import MultiTaskMapper

    torch.manual_seed(0)
    network = build_model(cfg).eval()
    loader = build_detection_test_loader(cfg, "val", mapper=MultiTaskMapper(cfg, is_train=False), num_workers=0)
    (found, *_) = network(next(iter(loader)))
    instances = found["instances"]
    assert len(instances) <= 8 * 3
    assert instances.pred_color.shape == instances.pred_classes.shape
    assert instances.color_probs.shape == (len(instances), 4)
    evaluator = COCOEvaluator("val", ("segm",), False, use_fast_impl=False)
    assert "AP" in inference_on_dataset(network, loader, evaluator)["segm"]


def test_an_exported_model_loads_by_detectron2s_checkpointer(cfg: Any, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling import build_model

    first, second = build_model(cfg), build_model(cfg)
    torch.save({"model": first.state_dict()}, tmp_path / "model.pth")
    DetectionCheckpointer(second).load(str(tmp_path / "model.pth"))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
