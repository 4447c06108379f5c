"""Mask2Former itself beside ours, for benchmarks and parity tests: same weights, same images, on the CPU.

Needs detectron2 and Mask2Former on PYTHONPATH (they are not on PyPI); benchmarks/README.md tells how. Neither needs its
compiled operators here: empty modules stand in for those, and Mask2Former falls back to plain torch.
"""

from __future__ import annotations

import sys
import types
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raytune_m2f.model import MultiTaskMaskFormer, SetCriterion, Target, build_model, pad_masks, padded_size
from raytune_m2f.model.backbones import Backbone, ResNet, SwinTransformer
from raytune_m2f.model.matcher import LossWeights

YAMLS = "configs/coco/instance-segmentation"
CATEGORIES = 80


@dataclass(frozen=True)
class Setting:
    """A size of network and input; the defaults are those of the published R50 on COCO.

    Attributes:
        backbone: R18, R50 or swin_tiny.
        pixels: side of the square images.
        instances: in each image.
        dec_layers: supervised outputs, as in detectron2's DEC_LAYERS.
    """

    backbone: str = "R50"
    pixels: int = 256
    batch: int = 2
    instances: int = 8
    queries: int = 100
    points: int = 12544
    hidden_dim: int = 256
    dim_feedforward: int = 2048
    enc_layers: int = 6
    dec_layers: int = 10


SETTINGS = {
    "tiny": Setting(
        backbone="R18", pixels=96, batch=4, queries=20, points=1024,
        hidden_dim=64, dim_feedforward=256, enc_layers=2, dec_layers=4, instances=4,
    ),
    "base": Setting(),
    "512": Setting(pixels=512, batch=1),
    "1024": Setting(pixels=1024, batch=1),
}  # fmt: skip


def import_reference() -> Any:
    """The package mask2former.

    Raises:
        ImportError: it or detectron2 is not on the path.
    """
    warnings.simplefilter("ignore")
    import detectron2

    detectron2._C = sys.modules.setdefault("detectron2._C", types.ModuleType("detectron2._C"))
    sys.modules.setdefault("MultiScaleDeformableAttention", types.ModuleType("MultiScaleDeformableAttention"))
    import mask2former

    return mask2former


def reference_config(setting: Setting) -> Any:
    """The published configuration at this size."""
    mask2former = import_reference()
    from detectron2.config import get_cfg
    from detectron2.projects.deeplab import add_deeplab_config

    cfg = get_cfg()
    add_deeplab_config(cfg)
    mask2former.add_maskformer2_config(cfg)
    yaml = "swin/maskformer2_swin_tiny_bs16_50ep" if setting.backbone == "swin_tiny" else "maskformer2_R50_bs16_50ep"
    cfg.merge_from_file(str(Path(mask2former.__file__).parents[1] / YAMLS / f"{yaml}.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    if setting.backbone == "R18":
        cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    head, former = cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.MASK_FORMER
    head.CONVS_DIM = head.MASK_DIM = former.HIDDEN_DIM = setting.hidden_dim
    head.TRANSFORMER_ENC_LAYERS = setting.enc_layers
    former.DEC_LAYERS, former.DIM_FEEDFORWARD = setting.dec_layers, setting.dim_feedforward
    former.NUM_OBJECT_QUERIES, former.TRAIN_NUM_POINTS = setting.queries, setting.points
    return cfg


def build_reference(setting: Setting) -> Any:
    """The reference with random weights."""
    cfg = reference_config(setting)
    from detectron2.modeling import build_model as build

    torch.manual_seed(0)
    reference = build(cfg)
    _randomize(reference)
    return reference


def build_backbone(name: str) -> Backbone:
    """Ours, of the same architecture as the reference's."""
    if name == "swin_tiny":
        return SwinTransformer(
            embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7, drop_path_rate=0.3
        )
    return ResNet(int(name[1:]), "FrozenBN")


def build_ours(setting: Setting, subcategories: dict[str, int] | None = None) -> MultiTaskMaskFormer:
    """Ours at the same size."""
    return build_model(
        num_classes=CATEGORIES,
        subcategories=subcategories or {},
        backbone=build_backbone(setting.backbone),
        conv_dim=setting.hidden_dim,
        mask_dim=setting.hidden_dim,
        encoder_layers=setting.enc_layers,
        num_queries=setting.queries,
        hidden_dim=setting.hidden_dim,
        dim_feedforward=setting.dim_feedforward,
        decoder_layers=setting.dec_layers - 1,
    )


def state_of(reference: Any) -> dict[str, Tensor]:
    """Its weights; the criterion's class weights are configuration, not weights."""
    return {name: value for name, value in reference.state_dict().items() if not name.startswith("criterion.")}


def build_pair(setting: Setting) -> tuple[Any, MultiTaskMaskFormer]:
    """The reference and ours with the same weights, strictly loaded."""
    reference, ours = build_reference(setting), build_ours(setting)
    ours.load_state_dict(state_of(reference))
    return reference, ours


def build_criterion(setting: Setting) -> SetCriterion:
    return SetCriterion(LossWeights(), num_points=setting.points, oversample_ratio=3.0, importance_sample_ratio=0.75)


def _randomize(reference: Any) -> None:
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
    """Random images with rectangles, as either network wants them.

    Args:
        sizes: (height, width) of each image.
        counts: instances of each image.
    """

    def __init__(self, sizes: list[tuple[int, int]], counts: list[int], seed: int = 3):
        rng = torch.Generator().manual_seed(seed)
        self.images = [torch.randint(0, 256, (3, *size), generator=rng, dtype=torch.uint8) for size in sizes]
        self.labels = [torch.randint(0, CATEGORIES, (count,), generator=rng) for count in counts]
        self.masks = [_rectangles(size, count, rng) for size, count in zip(sizes, counts, strict=True)]
        self.originals = [(2 * h, 2 * w) for h, w in sizes]

    @classmethod
    def of(cls, setting: Setting) -> Batch:
        return cls([(setting.pixels, setting.pixels)] * setting.batch, [setting.instances] * setting.batch)

    def targets(self, subcategories: dict[str, int] | None = None) -> list[Target]:
        """Ours; a subcategory is the category modulo its number of classes."""
        size = padded_size(self.images, 32)
        return [
            Target(labels, pad_masks(masks, size), {k: labels % n for k, n in (subcategories or {}).items()})
            for labels, masks in zip(self.labels, self.masks, strict=True)
        ]

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


def _rectangles(size: tuple[int, int], count: int, rng: torch.Generator) -> Tensor:
    masks = torch.zeros(count, *size, dtype=torch.bool)
    for i, mask in enumerate(masks):
        height, width = size[0] // 4 + i % 3, size[1] // 5 + i % 5
        y, x = (
            int(torch.randint(0, side - s, (1,), generator=rng)) for side, s in zip(size, (height, width), strict=True)
        )
        mask[y : y + height, x : x + width] = True
    return masks
