"""`MODEL`: the network and its loss. Defaults are those of Mask2Former's COCO instance YAML (ResNet-50)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from raytune_m2f.config.fields.backbones import (
    PACKAGE_PIXELS,
    Backbone,
    EfficientNetLite,
    MobileNetV3,
    ResNets,
    Swin,
    backbone_of,
    source_problem,
    swin_name,
)
from raytune_m2f.config.fields.base import Problem, Section, fixed

LEVELS = 3
"""Maps that the transformer decoder reads in turn."""

FROZEN = {"FrozenBN": "which never trains", "FrozenStatsBN": "which keeps the statistics of the weights"}
"""Norms that need MODEL.WEIGHTS."""

Balance = Literal["none", "inverse_sqrt", "effective_number"]
Level = Annotated[float, Field(ge=0, le=255)]
Spread = Annotated[float, Field(gt=0, le=255)]


class SemSegHead(Section):
    """`MODEL.SEM_SEG_HEAD`: the pixel decoder (multi-scale deformable attention, then an FPN)."""

    NAME: str = fixed("MaskFormerHead", "Head of the network.")
    NUM_CLASSES: int = Field(
        0, ge=0, le=100_000, description="Main categories, as in the training annotations; 0 = counted there [classes]."
    )
    IGNORE_VALUE: int = fixed(255, "Ignored label of semantic segmentation, which is off [label].")
    LOSS_WEIGHT: float = fixed(1.0, "Weight of the head's losses; MODEL.MASK_FORMER has the ones that count [factor].")
    CONVS_DIM: int = Field(
        256,
        ge=32,
        le=2048,
        multiple_of=32,
        description="Width of the pixel decoder, whose norm has 32 groups [channels].",
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
    DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: int = fixed(
        8, "Read neither here nor by Mask2Former: MODEL.MASK_FORMER.NHEADS holds for the encoder too [heads]."
    )
    COMMON_STRIDE: int = fixed(4, "Stride of the mask features [pixels].")
    TRANSFORMER_ENC_LAYERS: int = Field(6, ge=1, le=24, description="Layers of the encoder [layers].")
    TRANSFORMER_ENC_DIM_FEEDFORWARD: int = Field(
        1024,
        ge=1,
        le=16_384,
        description="Width inside the encoder's feed-forward layers; Mask2Former has no key for it [channels].",
    )


class MaskFormerTest(Section):
    """`MODEL.MASK_FORMER.TEST`: inference."""

    SEMANTIC_ON: bool = fixed(False, "Semantic segmentation: not done here.")
    INSTANCE_ON: bool = fixed(True, "Instance segmentation: what is done here.")
    PANOPTIC_ON: bool = fixed(False, "Panoptic segmentation: not done here.")
    OVERLAP_THRESHOLD: float = fixed(0.8, "Of panoptic segmentation only, which is off [ratio].")
    OBJECT_MASK_THRESHOLD: float = fixed(0.8, "Of panoptic segmentation only, which is off [probability].")
    RANKING: Literal["main", "sum", "logits", "product"] = Field(
        "main",
        description="What orders an image's instances, times the mask's quality: the main category's probability "
        "(main, as in Mask2Former), or that with the highest of each subcategory head: their mean (sum), the mean of "
        "their log-odds as a probability (logits), or their product [probability].",
    )
    CLASS_THRESHOLD: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Instances whose main category is less probable are left out; 0 = none [probability].",
    )
    SUBCATEGORY_THRESHOLD: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Instances are left out where the best class of any subcategory head is less probable; 0 = none "
        "[probability].",
    )
    DROP_NO_OBJECT: Literal["none", "any", "all"] = Field(
        "none",
        description="Instances are left out where so many subcategory heads find no object likelier than each of their "
        "classes [heads].",
    )
    NMS_THRESHOLD: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Of instances whose masks overlap more than this, the best is kept: intersection over union; "
        "1 = all are kept [ratio].",
    )
    NMS_CLASS_AGNOSTIC: bool = Field(
        True,
        description="Whether NMS_THRESHOLD compares masks whatever their categories, so that an object has one label, "
        "or those of one category.",
    )

    @property
    def needs_heads(self) -> tuple[str, ...]:
        """The keys whose sieve is on and is one of the subcategory heads."""
        on = {"SUBCATEGORY_THRESHOLD": self.SUBCATEGORY_THRESHOLD > 0, "DROP_NO_OBJECT": self.DROP_NO_OBJECT != "none"}
        return tuple(key for key, is_on in on.items() if is_on)


class MaskFormer(Section):
    """`MODEL.MASK_FORMER`: transformer decoder, matching and losses."""

    TRANSFORMER_DECODER_NAME: str = fixed("MultiScaleMaskedTransformerDecoder", "Transformer decoder.")
    TRANSFORMER_IN_FEATURE: str = fixed("multi_scale_pixel_decoder", "What the decoder attends to.")
    DEEP_SUPERVISION: bool = Field(True, description="Whether every decoder layer has its loss, or the last alone.")
    NO_OBJECT_WEIGHT: float = Field(
        0.1, gt=0, le=100, description="Weight of the no-object class in every classifier's cross-entropy [factor]."
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
    CLASS_BALANCE: Balance = Field(
        "none",
        description="Weights of the main categories in their cross-entropy, so that rare ones are learned: none, by "
        "1 / sqrt(instances), or by 1 / effective number (Cui et al. 2019); an instance weighs 1 on average.",
    )
    SUBCATEGORY_BALANCE: Balance = Field(
        "none", description="The same for the classes of every subcategory head, by its own labels."
    )
    BALANCE_BETA: float = Field(
        0.999, ge=0, le=0.999_999, description="Of effective_number: it is 1 / (1 - BALANCE_BETA) at most [share]."
    )
    HIDDEN_DIM: int = Field(
        256,
        ge=4,
        le=2048,
        multiple_of=4,
        description="Width of the transformer decoder; a multiple of NHEADS [channels].",
    )
    NUM_OBJECT_QUERIES: int = Field(
        100, ge=1, le=5000, description="Instances that can be predicted in an image, at most [queries]."
    )
    QUERY_SELECTION: Literal["none", "heatmap"] = Field(
        "none",
        description="What queries are: learnable (none), or the peaks of a heat map of object centres, which is what "
        "small data need.",
    )
    MASK_PRIOR: bool = Field(
        False,
        description="Whether a mask begins as an ellipse at its query's peak, of predicted size; with heatmap only.",
    )
    HEATMAP_WEIGHT: float = Field(
        2.0, ge=0, le=1000, description="Weight of the heat map's focal loss, with QUERY_SELECTION [factor]."
    )
    BLOB_WEIGHT: float = Field(
        1.0, ge=0, le=1000, description="Weight of the objects' centres and shapes, with QUERY_SELECTION [factor]."
    )
    NHEADS: int = Field(
        8,
        ge=1,
        le=64,
        description="Attention heads of encoder and transformer decoder; must divide CONVS_DIM, HIDDEN_DIM [heads].",
    )
    DROPOUT: float = fixed(0.0, "Dropout: Mask2Former's recipes have none [probability].")
    DIM_FEEDFORWARD: int = Field(
        2048, ge=1, le=16_384, description="Width inside the decoder's feed-forward layers [channels]."
    )
    ENC_LAYERS: int = fixed(0, "Encoder layers of the older MaskFormer [layers].")
    DEC_LAYERS: int = Field(
        10, ge=2, le=50, description="Supervised outputs: decoder layers and one for the queries [layers + 1]."
    )
    PRE_NORM: bool = fixed(False, "Normalisation after each block, as published.")
    ENFORCE_INPUT_PROJ: bool = Field(
        False, description="Project the pixel decoder's levels even where the widths agree already."
    )
    SIZE_DIVISIBILITY: int = Field(
        32, ge=32, le=1024, multiple_of=32, description="Images of a batch are padded to a multiple of this [pixels]."
    )
    TRAIN_NUM_POINTS: int = Field(
        12_544, ge=1, le=1_000_000, description="Points at which masks are compared, in loss and matching [points]."
    )
    OVERSAMPLE_RATIO: float = Field(
        3.0, ge=1, le=100, description="Candidates drawn per point that the mask loss chooses by uncertainty [factor]."
    )
    IMPORTANCE_SAMPLE_RATIO: float = Field(
        0.75, ge=0, le=1, description="Share of the loss's points chosen by uncertainty; the rest are random [ratio]."
    )
    TEST: MaskFormerTest = MaskFormerTest()

    def clashes(self) -> Iterator[Problem]:
        if self.MASK_PRIOR and self.QUERY_SELECTION == "none":
            yield Problem(
                ("MODEL.MASK_FORMER.MASK_PRIOR", "MODEL.MASK_FORMER.QUERY_SELECTION"),
                "got true, but learnable queries have no place to begin at; set QUERY_SELECTION to heatmap",
            )
        if self.HIDDEN_DIM % self.NHEADS:
            yield Problem(
                ("MODEL.MASK_FORMER.NHEADS", "MODEL.MASK_FORMER.HIDDEN_DIM"),
                f"got {self.NHEADS}, which does not divide MODEL.MASK_FORMER.HIDDEN_DIM {self.HIDDEN_DIM}",
            )


class AnyModel(Section, extra="allow"):
    """`MODEL` of any other network: detectron2's own keys."""

    META_ARCHITECTURE: str = Field("", description="Name of the network in detectron2's registry.")
    WEIGHTS: str = Field(
        "",
        description='Weights to start from: a path or an address (detectron2://..., https://...); "" = from scratch.',
    )
    COMPILE: bool = fixed(False, "torch.compile: of our own network only.")


class Model(Section):
    """`MODEL`."""

    META_ARCHITECTURE: Literal["MaskFormer", "MultiTaskMaskFormer"] = Field(
        "MaskFormer",
        description="Two names of one network: the subcategory heads are those of DATASETS.SUBCATEGORIES. With "
        "ENGINE: detectron2 any other of its networks, by its own keys.",
    )
    WEIGHTS: str = Field(
        "detectron2://ImageNetPretrained/torchvision/R-50.pkl",
        description="Weights to start from: a file, a directory (an export, or a Mask2Former of transformers'), or an "
        'address (package://..., torchvision://..., detectron2://..., hf://..., https://...); "" = from scratch.',
    )
    COMPILE: bool = Field(
        False,
        description="Train through torch.compile: minutes at the start of each trial, then fewer and larger kernels. "
        "For long trials on GPUs; evaluation is not compiled, its images have many sizes.",
    )
    PIXEL_MEAN: tuple[Level, Level, Level] = Field(
        (123.675, 116.28, 103.53), description="Subtracted from red, green and blue [levels of 0-255]."
    )
    PIXEL_STD: tuple[Spread, Spread, Spread] = Field(
        (58.395, 57.12, 57.375), description="Red, green and blue are divided by this [levels of 0-255]."
    )
    BACKBONE: Backbone = Backbone()
    RESNETS: ResNets = ResNets()
    SWIN: Swin = Swin()
    MOBILENETV3: MobileNetV3 = MobileNetV3()
    EFFICIENTNET_LITE: EfficientNetLite = EfficientNetLite()
    SEM_SEG_HEAD: SemSegHead = SemSegHead()
    MASK_FORMER: MaskFormer = MaskFormer()

    def clashes(self) -> Iterator[Problem]:
        width, heads = self.SEM_SEG_HEAD.CONVS_DIM, self.MASK_FORMER.NHEADS
        if width % heads and self.MASK_FORMER.HIDDEN_DIM % heads == 0:  # else that is said already
            yield Problem(
                ("MODEL.MASK_FORMER.NHEADS", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
                f"got {heads}, which does not divide MODEL.SEM_SEG_HEAD.CONVS_DIM {width}",
            )
        former = self.MASK_FORMER
        projects = former.ENFORCE_INPUT_PROJ or width != former.HIDDEN_DIM
        if projects and former.DEC_LAYERS <= LEVELS:
            yield Problem(
                ("MODEL.MASK_FORMER.DEC_LAYERS", "MODEL.MASK_FORMER.HIDDEN_DIM", "MODEL.SEM_SEG_HEAD.CONVS_DIM"),
                f"got {former.DEC_LAYERS}: so few layers leave a level unread, and its projection (HIDDEN_DIM "
                f"{former.HIDDEN_DIM}, CONVS_DIM {width}) untrained; allowed: {LEVELS + 1} or more, or equal widths "
                "without ENFORCE_INPUT_PROJ",
            )
        yield from self._weight_clashes()

    def _weight_clashes(self) -> Iterator[Problem]:
        kind, size_keys, norm_key, norm = self._backbone()
        if not self.WEIGHTS and norm in FROZEN:
            smallest = ", GN for tiny batches" if norm_key == "MODEL.RESNETS.NORM" else ""
            yield Problem(
                (norm_key, "MODEL.WEIGHTS", "MODEL.BACKBONE.NAME"),
                f'got {norm}, {FROZEN[norm]}, with MODEL.WEIGHTS "" (from scratch); set it to BN '
                f"(SyncBN on several GPUs{smallest}), or give MODEL.WEIGHTS",
            )
        if not self.WEIGHTS and self.BACKBONE.FREEZE_AT:
            yield Problem(
                ("MODEL.BACKBONE.FREEZE_AT", "MODEL.WEIGHTS"),
                f'got {self.BACKBONE.FREEZE_AT}, stages that never learn, with MODEL.WEIGHTS "" (from scratch); set it '
                "to 0, or give MODEL.WEIGHTS",
            )
        if problem := source_problem(self.WEIGHTS):
            yield Problem(("MODEL.WEIGHTS",), problem)
        theirs = backbone_of(self.WEIGHTS)
        if theirs == kind:
            yield from self._pixel_clashes()
        elif theirs:
            how = f" (with {norm_key} BN)" if norm_key else ""
            yield Problem(
                ("MODEL.WEIGHTS", "MODEL.BACKBONE.NAME", *size_keys),
                f"got {self.WEIGHTS!r}, of {theirs}, but the backbone is {kind} (MODEL.BACKBONE.NAME, "
                f'{", ".join(size_keys)}); give weights that fit, or "" to train from scratch{how}',
            )

    def _pixel_clashes(self) -> Iterator[Problem]:
        pixels = PACKAGE_PIXELS.get(self.WEIGHTS)
        if pixels and pixels != (self.PIXEL_MEAN, self.PIXEL_STD):
            mean, std = map(list, pixels)
            yield Problem(
                ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "MODEL.WEIGHTS"),
                f"got {list(self.PIXEL_MEAN)} (PIXEL_STD {list(self.PIXEL_STD)}), but {self.WEIGHTS} was trained with "
                f"{mean} (PIXEL_STD {std}); give these",
            )

    def _backbone(self) -> tuple[str, tuple[str, ...], str, str]:
        """The chosen backbone: what it is, the keys that say so, the key of its norm if it has one, and the norm."""
        if self.BACKBONE.NAME == "D2SwinTransformer":
            sizes = ("MODEL.SWIN.EMBED_DIM", "MODEL.SWIN.DEPTHS", "MODEL.SWIN.WINDOW_SIZE")
            return swin_name(self.SWIN.EMBED_DIM, self.SWIN.DEPTHS, self.SWIN.WINDOW_SIZE), sizes, "", "LN"
        if self.BACKBONE.NAME == "build_mobilenet_v3_backbone":
            arch, norm = self.MOBILENETV3.ARCH, self.MOBILENETV3.NORM
            return f"a MobileNetV3-{arch}", ("MODEL.MOBILENETV3.ARCH",), "MODEL.MOBILENETV3.NORM", norm
        if self.BACKBONE.NAME == "build_efficientnet_lite_backbone":
            variant, norm = self.EFFICIENTNET_LITE.VARIANT, self.EFFICIENTNET_LITE.NORM
            keys = ("MODEL.EFFICIENTNET_LITE.VARIANT",)
            return f"an EfficientNet-Lite{variant}", keys, "MODEL.EFFICIENTNET_LITE.NORM", norm
        return f"a ResNet-{self.RESNETS.DEPTH}", ("MODEL.RESNETS.DEPTH",), "MODEL.RESNETS.NORM", self.RESNETS.NORM
