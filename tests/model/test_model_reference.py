"""Parity with Mask2Former itself, where detectron2 and Mask2Former are on the path (pytest -m reference).

Both run on the CPU without their compiled operators: two empty modules stand in for those.
"""

from __future__ import annotations

import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model import (
    LossWeights,
    MultiTaskMaskFormer,
    RandomPoints,
    SetCriterion,
    Target,
    build_model,
    pad_masks,
    padded_size,
)
from model.backbone import detectron2_name

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

POINTS = 512
YAML = "configs/coco/instance-segmentation/maskformer2_R50_bs16_50ep.yaml"


@pytest.fixture(params=[18, 50])
def pair(request: pytest.FixtureRequest) -> tuple[Any, MultiTaskMaskFormer]:
    """The reference with random weights, and ours with the same."""
    warnings.simplefilter("ignore")
    detectron2 = pytest.importorskip("detectron2")
    detectron2._C = sys.modules.setdefault("detectron2._C", types.ModuleType("detectron2._C"))
    sys.modules.setdefault("MultiScaleDeformableAttention", types.ModuleType("MultiScaleDeformableAttention"))
    mask2former = pytest.importorskip("mask2former")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model as build_reference
    from detectron2.projects.deeplab import add_deeplab_config

    cfg = get_cfg()
    add_deeplab_config(cfg)
    mask2former.add_maskformer2_config(cfg)
    cfg.merge_from_file(str(Path(mask2former.__file__).parents[1] / YAML))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = request.param
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if request.param < 50 else 256
    cfg.MODEL.MASK_FORMER.TRAIN_NUM_POINTS = POINTS
    torch.manual_seed(0)
    reference = build_reference(cfg)
    randomize(reference)
    state = {name: value for name, value in reference.state_dict().items() if not name.startswith("criterion.")}
    ours = build_model(num_classes=80, subcategories={}, backbone_depth=request.param)
    missing, unexpected = ours.load_state_dict(state)
    assert (missing, unexpected) == ([], [])
    assert ours.state_dict().keys() == state.keys()
    return reference, ours


def randomize(reference: Any) -> None:
    """Fresh norms and deformable offsets would hide differences: they are constants."""
    for module in reference.modules():
        if type(module).__name__ == "FrozenBatchNorm2d":
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(0, 0.1)
    for name, parameter in reference.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights" in name:
            torch.nn.init.normal_(parameter, 0, 0.02)


class Batch:
    """Two images of different sizes with three and five rectangles."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(3)
        sizes = [(96, 128), (110, 90)]
        self.images = [torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
        self.labels = [torch.randint(0, 80, (count,), generator=rng) for count in (3, 5)]
        self.masks = []
        for (h, w), labels in zip(sizes, self.labels, strict=True):
            masks = torch.zeros(len(labels), h, w, dtype=torch.bool)
            for i, mask in enumerate(masks):
                y, x = (int(torch.randint(0, side - 30, (1,), generator=rng)) for side in (h, w))
                mask[y : y + 25, x : x + 20 + i] = True
            self.masks.append(masks)
        self.originals = [(2 * h, 2 * w) for h, w in sizes]

    def targets(self) -> list[Target]:
        size = padded_size(self.images, 32)
        return [Target(x, pad_masks(masks, size)) for x, masks in zip(self.labels, self.masks, strict=True)]

    def reference_inputs(self) -> list[dict[str, Any]]:
        from detectron2.structures import Instances

        inputs = []
        for image, labels, masks, (height, width) in zip(
            self.images, self.labels, self.masks, self.originals, strict=True
        ):
            instances = Instances(image.shape[1:])
            instances.gt_classes, instances.gt_masks = labels, masks
            inputs.append({"image": image, "instances": instances, "height": height, "width": width})
        return inputs


real_rand = torch.rand


def points_by_number(*shape: int, **options: Any) -> Tensor:
    """In place of torch.rand: the same points for every mask, a function of how many there are."""
    rng = torch.Generator().manual_seed(shape[-2])
    return real_rand(shape[-2], 2, generator=rng).expand(*shape).clone()


class SharedPoints(RandomPoints):
    def __init__(self) -> None:
        super().__init__([], torch.device("cpu"))

    def draw(self, image: int, *shape: int) -> Tensor:
        return points_by_number(*shape, 2)


def test_losses_and_gradients_are_the_references(
    pair: tuple[Any, MultiTaskMaskFormer], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, ours = pair
    batch, weights = Batch(), LossWeights()
    monkeypatch.setattr(torch, "rand", points_by_number)
    theirs = reference.train()(batch.reference_inputs())
    criterion = SetCriterion(weights, num_points=POINTS, oversample_ratio=3.0, importance_sample_ratio=0.75)
    losses = criterion(ours.train()(batch.images), batch.targets(), SharedPoints())
    for name, weight in (("loss_ce", weights.classes), ("loss_mask", weights.mask), ("loss_dice", weights.dice)):
        for layer, value in enumerate(losses[name]):
            key = name if layer == len(losses[name]) - 1 else f"{name}_{layer}"
            assert weight * value.item() == pytest.approx(theirs[key].item(), rel=1e-4, abs=1e-4), key
    sum(theirs.values()).backward()
    criterion.total(losses).backward()
    wanted = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in ours.named_parameters():
        stem, _, rest = name.partition(".")
        grad = wanted[f"backbone.{detectron2_name(rest)}" if stem == "backbone" else name]
        assert parameter.grad is not None
        if grad.norm() > 1e-6:
            assert (parameter.grad - grad).norm() / grad.norm() < 1e-3, name


@torch.no_grad()
def test_outputs_and_instances_are_the_references(pair: tuple[Any, MultiTaskMaskFormer]) -> None:
    reference, ours = pair
    reference.eval()
    ours.eval()
    batch = Batch()
    theirs = reference.sem_seg_head(reference.backbone(ours.preprocess(batch.images)))
    outputs = ours(batch.images)
    torch.testing.assert_close(outputs.pred_logits[-1], theirs["pred_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.pred_masks, theirs["pred_masks"], atol=1e-4, rtol=0)
    wanted = [result["instances"] for result in reference(batch.reference_inputs())]
    for instances, want in zip(ours.predict(batch.images, batch.originals, max_instances=100), wanted, strict=True):
        order = want.scores.argsort(descending=True, stable=True)
        torch.testing.assert_close(instances.scores, want.scores[order], atol=1e-5, rtol=0)
        assert torch.equal(instances.labels, want.pred_classes[order])
        assert (instances.masks != want.pred_masks[order].bool()).float().mean() < 1e-4
