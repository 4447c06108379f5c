"""`MODEL.BACKBONE`, and `RESNETS`, `SWIN`, `MOBILENETV3`, `EFFICIENTNET_LITE`: which backbone, and its keys.

The keys of a backbone that is not chosen are accepted and not read: Mask2Former's Swin YAMLs build on the ResNet's,
and a search space may have several backbones. Defaults are Mask2Former's. The functions read from the name of
MODEL.WEIGHTS how it is reached, and which backbone it was trained for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from raytune_m2f.config.fields.base import Problem, Section, fixed

SCHEMES = ("http", "https", "detectron2", "torchvision", "package", "hf")
"""What a MODEL.WEIGHTS with `://` may start with; everything else is a path."""

TORCHVISION = {
    **{f"ResNet{depth}": f"a ResNet-{depth}" for depth in (18, 34, 50, 101)},
    **{f"MobileNet_V3_{arch.title()}": f"a MobileNetV3-{arch}" for arch in ("small", "large")},
    **{f"Swin_{size}": f"a Swin-{size} with window 7" for size in ("T", "S", "B")},
}
"""torchvision's classes of weights, without `_Weights`, and the backbone of each."""

PACKAGES = {"package://efficientnet-lite0": "an EfficientNet-Lite0"}
"""Weights that an installed package has in it (`learner.weight_files` says where), and the backbone of each."""

PACKAGE_PIXELS = {"package://efficientnet-lite0": ((127.0,) * 3, (128.0,) * 3)}
"""PIXEL_MEAN and PIXEL_STD of their training."""

SWIN_SIZES: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "T",
    (96, (2, 2, 18, 2)): "S",
    (128, (2, 2, 18, 2)): "B",
    (192, (2, 2, 18, 2)): "L",
}
"""EMBED_DIM and DEPTHS of the published Swin Transformers (Liu et al. 2021, section 3.3)."""

EXAMPLE = "torchvision://ResNet50_Weights.IMAGENET1K_V2"

HUB_EXAMPLE = "hf://facebook/mask2former-swin-tiny-coco-instance"

_HUB = re.compile(r"hf://[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
_TORCHVISION = re.compile(r"torchvision://(\w+)_Weights\.\w+")
_RESNET = re.compile(r"(?:^|/)R-(\d+)\.pkl$")  # detectron2's model zoo
_SWIN = re.compile(r"(?:^|/)swin_([tsbl])\w+_patch4_window(\d+)_\w+\.(?:pkl|pth)$")  # Swin's own repository


def source_problem(source: str) -> str:
    """Why no weights can be found under this name; empty if they may."""
    scheme, separator, _ = source.partition("://")
    if separator and scheme not in SCHEMES:
        return f"got {source!r}, allowed: a path, or an address with {', '.join(SCHEMES)}"
    if scheme == "package" and source not in PACKAGES:
        return f"got {source!r}, allowed: {', '.join(PACKAGES)}"
    if scheme == "hf" and separator and not _HUB.fullmatch(source):
        return f"got {source!r}, allowed: hf://owner/name or hf://owner/name@revision; for example {HUB_EXAMPLE}"
    if not source.startswith("torchvision://"):
        return ""
    found = _TORCHVISION.fullmatch(source)
    if found and found[1] in TORCHVISION:
        return ""
    names = ", ".join(f"{name}_Weights" for name in TORCHVISION)
    return f"got {source!r}, allowed: torchvision://<class>.<name> with {names}; for example {EXAMPLE}"


def backbone_of(source: str) -> str | None:
    """The backbone that these weights were trained for, as `TORCHVISION` has it; None if the name does not tell."""
    if source in PACKAGES:
        return PACKAGES[source]
    if found := _TORCHVISION.fullmatch(source):
        return TORCHVISION.get(found[1])
    if found := _RESNET.search(source):
        return f"a ResNet-{found[1]}"
    if found := _SWIN.search(source):
        return f"a Swin-{found[1].upper()} with window {found[2]}"
    return None


def swin_name(embed_dim: int, depths: tuple[int, ...], window_size: int) -> str:
    """What `backbone_of` calls a Swin Transformer of these sizes."""
    size = SWIN_SIZES.get((embed_dim, depths))
    kind = f"Swin-{size}" if size else f"Swin of {embed_dim} channels and {list(depths)} blocks"
    return f"a {kind} with window {window_size}"


Blocks = Annotated[int, Field(ge=1, le=64)]
Heads = Annotated[int, Field(ge=1, le=256)]


NORMS = (
    "Normalisation. FrozenBN never trains, FrozenStatsBN learns scale and shift but keeps the statistics of the "
    "weights: both are for pretrained MODEL.WEIGHTS only."
)


class Backbone(Section):
    """`MODEL.BACKBONE`."""

    NAME: Literal[
        "build_resnet_backbone",
        "D2SwinTransformer",
        "build_mobilenet_v3_backbone",
        "build_efficientnet_lite_backbone",
    ] = Field(
        "build_resnet_backbone",
        description="Backbone: MODEL.RESNETS, SWIN, MOBILENETV3 or EFFICIENTNET_LITE says which of its kind.",
    )
    FREEZE_AT: int = Field(
        0,
        ge=0,
        le=5,
        description="Stages that never learn, statistics of batch norm included: 1 the stem, 2 stem and res2, and so "
        "on to 5 with res5. With pretrained MODEL.WEIGHTS only; it saves their backward [stages].",
    )


class ResNets(Section):
    """`MODEL.RESNETS`: ResNets of torchvision under detectron2's names."""

    DEPTH: Literal[18, 34, 50, 101] = Field(50, description="Which ResNet [layers].")
    NORM: Literal["FrozenBN", "FrozenStatsBN", "BN", "SyncBN", "GN"] = Field("FrozenBN", description=NORMS)
    STEM_TYPE: str = fixed("basic", "First layers: the ordinary 7x7 convolution.")
    STEM_OUT_CHANNELS: int = fixed(64, "Width of the stem [channels].")
    RES2_OUT_CHANNELS: int = Field(
        0, ge=0, le=256, description="Width of res2; 0 = what DEPTH asks for: 64 up to 34 layers, else 256 [channels]."
    )
    STRIDE_IN_1X1: bool = fixed(False, "The stride is in the 3x3 convolution, as in torchvision's weights.")
    OUT_FEATURES: tuple[str, ...] = fixed(("res2", "res3", "res4", "res5"), "Stages that the head reads.")
    RES5_MULTI_GRID: tuple[int, ...] = fixed((1, 1, 1), "Dilations within res5: none [pixels].")

    def clashes(self) -> Iterator[Problem]:
        width = 64 if self.DEPTH < 50 else 256
        if self.RES2_OUT_CHANNELS not in (0, width):
            yield Problem(
                ("MODEL.RESNETS.RES2_OUT_CHANNELS", "MODEL.RESNETS.DEPTH"),
                f"got {self.RES2_OUT_CHANNELS}, but a ResNet-{self.DEPTH} has {width}; remove the key",
            )


class MobileNetV3(Section):
    """`MODEL.MOBILENETV3`: MobileNetV3 of torchvision."""

    ARCH: Literal["small", "large"] = Field("small", description="Which MobileNetV3.")
    NORM: Literal["FrozenBN", "FrozenStatsBN", "BN", "SyncBN"] = Field("FrozenBN", description=NORMS)


class EfficientNetLite(Section):
    """`MODEL.EFFICIENTNET_LITE`: EfficientNet-Lite (no squeeze-and-excitation, ReLU6)."""

    VARIANT: Literal[0, 1, 2] = Field(0, description="Which EfficientNet-Lite; a larger one is wider, deeper [number].")
    NORM: Literal["FrozenStatsBN", "FrozenBN", "BN", "SyncBN"] = Field("FrozenStatsBN", description=NORMS)


class Swin(Section):
    """`MODEL.SWIN`: Swin Transformers of torchvision under Mask2Former's names. The defaults are a Swin-T."""

    PRETRAIN_IMG_SIZE: int = Field(
        224, ge=32, le=4096, description="Images that the weights saw; for APE only, which is off [pixels]."
    )
    PATCH_SIZE: int = fixed(4, "Side of a patch, the stride of res2 [pixels].")
    EMBED_DIM: int = Field(96, ge=8, le=1024, description="Width of res2; it doubles with each level [channels].")
    DEPTHS: tuple[Blocks, Blocks, Blocks, Blocks] = Field((2, 2, 6, 2), description="Blocks of each level [blocks].")
    NUM_HEADS: tuple[Heads, Heads, Heads, Heads] = Field(
        (3, 6, 12, 24), description="Attention heads of each level; they must divide its width [heads]."
    )
    WINDOW_SIZE: int = Field(7, ge=2, le=64, description="Side of an attention window [cells].")
    MLP_RATIO: float = fixed(4.0, "Width inside the feed-forward layers, in units of the level's [factor].")
    QKV_BIAS: bool = fixed(True, "Biases of queries, keys and values.")
    QK_SCALE: float | None = fixed(None, "Scale of the attention; nothing = 1 / sqrt(width of a head) [factor].")
    DROP_RATE: float = fixed(0.0, "Dropout: Mask2Former's recipes have none [probability].")
    ATTN_DROP_RATE: float = fixed(0.0, "Dropout of the attention: Mask2Former's recipes have none [probability].")
    DROP_PATH_RATE: float = Field(
        0.3, ge=0, le=0.9, description="Stochastic depth of the last block, from 0 at the first [probability]."
    )
    APE: bool = fixed(False, "Absolute position embedding: the published weights have none.")
    PATCH_NORM: bool = fixed(True, "LayerNorm of the patches.")
    OUT_FEATURES: tuple[str, ...] = fixed(("res2", "res3", "res4", "res5"), "Stages that the head reads.")
    USE_CHECKPOINT: bool = fixed(False, "Recomputing activations to save memory: not done here.")

    def clashes(self) -> Iterator[Problem]:
        for level, heads in enumerate(self.NUM_HEADS):
            width = self.EMBED_DIM * 2**level
            if width % heads:
                yield Problem(
                    (f"MODEL.SWIN.NUM_HEADS[{level}]", "MODEL.SWIN.EMBED_DIM"),
                    f"got {heads}, which does not divide the width of res{level + 2}, {width} "
                    f"(MODEL.SWIN.EMBED_DIM {self.EMBED_DIM} times {2**level})",
                )
