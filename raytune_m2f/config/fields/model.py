"""`MODEL`: the network and its loss. Defaults are those of Mask2Former's COCO instance YAML (ResNet-50).

Units stand in brackets at the end of each description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from raytune_m2f.config.fields.base import Problem, Section, fixed

SCHEMES = ("http", "https", "detectron2", "torchvision")
"""What a MODEL.WEIGHTS with `://` may start with; everything else is a path."""

Level = Annotated[float, Field(ge=0, le=255)]
Spread = Annotated[float, Field(gt=0, le=255)]


class Backbone(Section):
    """`MODEL.BACKBONE`."""

    NAME: str = fixed("build_resnet_backbone", "Builder of the backbone; MODEL.RESNETS chooses among ResNets.")
    FREEZE_AT: int = fixed(0, "Stages kept frozen; Mask2Former freezes none (FrozenBN apart) [stages].")


class ResNets(Section):
    """`MODEL.RESNETS`: ResNets of torchvision under detectron2's names."""

    DEPTH: Literal[18, 34, 50, 101] = Field(50, description="Which ResNet [layers].")
    NORM: Literal["FrozenBN", "BN", "SyncBN", "GN"] = Field(
        "FrozenBN",
        description="Normalisation. FrozenBN never trains: for pretrained MODEL.WEIGHTS only.",
    )
    STEM_TYPE: str = fixed("basic", "First layers: the ordinary 7x7 convolution.")
    STEM_OUT_CHANNELS: int = fixed(64, "Width of the stem [channels].")
    RES2_OUT_CHANNELS: int = Field(
        0,
        ge=0,
        le=256,
        description="Width of res2; 0 = what DEPTH asks for: 64 up to 34 layers, else 256 [channels].",
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


class SemSegHead(Section):
    """`MODEL.SEM_SEG_HEAD`: the pixel decoder (multi-scale deformable attention, then an FPN)."""

    NAME: str = fixed("MaskFormerHead", "Head of the network.")
    NUM_CLASSES: int = Field(
        0,
        ge=0,
        le=100_000,
        description="Main categories; 0 = counted in the training annotations, else it must agree [classes].",
    )
    IGNORE_VALUE: int = fixed(255, "Ignored label of semantic segmentation, which is off [label].")
    LOSS_WEIGHT: float = fixed(1.0, "Weight of the head's losses; MODEL.MASK_FORMER has the ones that count [factor].")
    CONVS_DIM: int = Field(
        256,
        ge=32,
        le=2048,
        multiple_of=32,
        description="Width of the pixel decoder; its GroupNorm has 32 groups [channels].",
    )
    MASK_DIM: int = Field(256, ge=1, le=2048, description="Width of the mask features and mask embeddings [channels].")
    NORM: Literal["GN", ""] = Field("GN", description="Normalisation of the FPN's convolutions: GroupNorm or none.")
    PIXEL_DECODER_NAME: str = fixed("MSDeformAttnPixelDecoder", "Pixel decoder.")
    IN_FEATURES: tuple[str, ...] = fixed(("res2", "res3", "res4", "res5"), "Stages that the FPN reads.")
    DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES: tuple[str, ...] = fixed(
        ("res3", "res4", "res5"), "Stages that attend to one another."
    )
    DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS: int = Field(
        4, ge=1, le=64, description="Points that a head of the encoder samples per level [points]."
    )
    DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: int = Field(
        8, ge=1, le=64, description="Attention heads of the encoder; must divide CONVS_DIM [heads]."
    )
    COMMON_STRIDE: int = fixed(4, "Stride of the mask features [pixels].")
    TRANSFORMER_ENC_LAYERS: int = Field(6, ge=1, le=24, description="Layers of the encoder [layers].")

    def clashes(self) -> Iterator[Problem]:
        heads = self.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS
        if self.CONVS_DIM % heads:
            yield Problem(
                ("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
                f"got {heads}, which does not divide MODEL.SEM_SEG_HEAD.CONVS_DIM {self.CONVS_DIM}",
            )


class MaskFormerTest(Section):
    """`MODEL.MASK_FORMER.TEST`: inference."""

    SEMANTIC_ON: bool = fixed(False, "Semantic segmentation: not done here.")
    INSTANCE_ON: bool = fixed(True, "Instance segmentation: what is done here.")
    PANOPTIC_ON: bool = fixed(False, "Panoptic segmentation: not done here.")
    OVERLAP_THRESHOLD: float = fixed(0.8, "Of panoptic segmentation only, which is off [ratio].")
    OBJECT_MASK_THRESHOLD: float = fixed(0.8, "Of panoptic segmentation only, which is off [probability].")
    RANKING: Literal["main", "sum", "product"] = Field(
        "main",
        description="What orders an image's instances: the main category's probability (as in Mask2Former), "
        "or its sum or product with the best of each subcategory head.",
    )


class MaskFormer(Section):
    """`MODEL.MASK_FORMER`: transformer decoder, matching and losses."""

    TRANSFORMER_DECODER_NAME: str = fixed("MultiScaleMaskedTransformerDecoder", "Transformer decoder.")
    TRANSFORMER_IN_FEATURE: str = fixed("multi_scale_pixel_decoder", "What the decoder attends to.")
    DEEP_SUPERVISION: bool = Field(True, description="Whether every decoder layer has its loss, or the last alone.")
    NO_OBJECT_WEIGHT: float = Field(
        0.1,
        gt=0,
        le=100,
        description="Weight of the no-object class in every classifier's cross-entropy [factor].",
    )
    CLASS_WEIGHT: float = Field(
        2.0, ge=0, le=1000, description="Weight of the main category's loss and matching cost [factor]."
    )
    MASK_WEIGHT: float = Field(
        5.0, ge=0, le=1000, description="Weight of the masks' binary cross-entropy, loss and cost [factor]."
    )
    DICE_WEIGHT: float = Field(5.0, ge=0, le=1000, description="Weight of the masks' dice loss and cost [factor].")
    SUBCATEGORY_WEIGHT: float = Field(
        2.0, ge=0, le=1000, description="Weight of each subcategory head's loss and matching cost [factor]."
    )
    HIDDEN_DIM: int = Field(
        256,
        ge=4,
        le=2048,
        multiple_of=4,
        description="Width of the transformer decoder; NHEADS must divide it [channels].",
    )
    NUM_OBJECT_QUERIES: int = Field(
        100, ge=1, le=5000, description="Instances that can be predicted in an image, at most [queries]."
    )
    NHEADS: int = Field(8, ge=1, le=64, description="Attention heads of the transformer decoder [heads].")
    DROPOUT: float = fixed(0.0, "Dropout: Mask2Former's recipes have none [probability].")
    DIM_FEEDFORWARD: int = Field(
        2048, ge=1, le=16_384, description="Width inside the decoder's feed-forward layers [channels]."
    )
    ENC_LAYERS: int = fixed(0, "Encoder layers of the older MaskFormer [layers].")
    DEC_LAYERS: int = Field(
        10,
        ge=2,
        le=50,
        description="Supervised outputs: decoder layers plus one for the learnable queries [layers + 1].",
    )
    PRE_NORM: bool = fixed(False, "Normalisation after each block, as published.")
    ENFORCE_INPUT_PROJ: bool = Field(
        False, description="Project the pixel decoder's levels even where the widths agree already."
    )
    SIZE_DIVISIBILITY: int = Field(
        32,
        ge=32,
        le=1024,
        multiple_of=32,
        description="Images of a batch are padded to a multiple of this [pixels].",
    )
    TRAIN_NUM_POINTS: int = Field(
        12_544,
        ge=1,
        le=1_000_000,
        description="Points at which a mask is compared, in the loss and the matching [points].",
    )
    OVERSAMPLE_RATIO: float = Field(
        3.0,
        ge=1,
        le=100,
        description="Candidates drawn for each point that the mask loss chooses by uncertainty [factor].",
    )
    IMPORTANCE_SAMPLE_RATIO: float = Field(
        0.75,
        ge=0,
        le=1,
        description="Share of the loss's points chosen by uncertainty; the rest are random [ratio].",
    )
    TEST: MaskFormerTest = MaskFormerTest()

    def clashes(self) -> Iterator[Problem]:
        if self.HIDDEN_DIM % self.NHEADS:
            yield Problem(
                ("MODEL.MASK_FORMER.NHEADS", "MODEL.MASK_FORMER.HIDDEN_DIM"),
                f"got {self.NHEADS}, which does not divide MODEL.MASK_FORMER.HIDDEN_DIM {self.HIDDEN_DIM}",
            )


class Model(Section):
    """`MODEL`."""

    META_ARCHITECTURE: Literal["MaskFormer", "MultiTaskMaskFormer"] = Field(
        "MaskFormer",
        description="Two names of one network: the subcategory heads are those of DATASETS.SUBCATEGORIES.",
    )
    WEIGHTS: str = Field(
        "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
        description='Weights to start from: a path or an address (detectron2://...); "" = from scratch.',
    )
    PIXEL_MEAN: tuple[Level, Level, Level] = Field(
        (123.675, 116.28, 103.53), description="Subtracted from red, green and blue [levels of 0-255]."
    )
    PIXEL_STD: tuple[Spread, Spread, Spread] = Field(
        (58.395, 57.12, 57.375), description="Red, green and blue are divided by this [levels of 0-255]."
    )
    BACKBONE: Backbone = Backbone()
    RESNETS: ResNets = ResNets()
    SEM_SEG_HEAD: SemSegHead = SemSegHead()
    MASK_FORMER: MaskFormer = MaskFormer()

    def clashes(self) -> Iterator[Problem]:
        if not self.WEIGHTS and self.RESNETS.NORM == "FrozenBN":
            yield Problem(
                ("MODEL.RESNETS.NORM", "MODEL.WEIGHTS"),
                'got FrozenBN, which never trains, with MODEL.WEIGHTS "" (from scratch); set it to BN '
                "(SyncBN on several GPUs, GN for tiny batches), or give MODEL.WEIGHTS",
            )
        scheme, separator, _ = self.WEIGHTS.partition("://")
        if separator and scheme not in SCHEMES:
            yield Problem(
                ("MODEL.WEIGHTS",),
                f"got {self.WEIGHTS!r}, allowed: a path, or an address with {', '.join(SCHEMES)}",
            )
        zoo = re.search(r"(?:^|/)R-(\d+)\.pkl$", self.WEIGHTS)
        if zoo and int(zoo[1]) != self.RESNETS.DEPTH:
            yield Problem(
                ("MODEL.WEIGHTS", "MODEL.RESNETS.DEPTH"),
                f"got {self.WEIGHTS!r}, a ResNet-{zoo[1]}, but MODEL.RESNETS.DEPTH is {self.RESNETS.DEPTH}; "
                'give weights that fit, or "" to train from scratch (with MODEL.RESNETS.NORM BN)',
            )
