"""Our network and its loss, built as the configuration says."""

from __future__ import annotations

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.model import (
    Backbone,
    LossWeights,
    MobileNetV3,
    MultiTaskMaskFormer,
    ResNet,
    SetCriterion,
    SwinTransformer,
    build_model,
)


def build_network(config: Config, categories: Categories) -> MultiTaskMaskFormer:
    """The network for these categories, with fresh weights."""
    head, former = config.MODEL.SEM_SEG_HEAD, config.MODEL.MASK_FORMER
    return build_model(
        backbone=build_backbone(config),
        num_classes=len(categories.names),
        subcategories={name: len(classes) for name, classes in categories.subcategories.items()},
        conv_dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        encoder_layers=head.TRANSFORMER_ENC_LAYERS,
        encoder_points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        pixel_decoder_norm=head.NORM == "GN",
        num_queries=former.NUM_OBJECT_QUERIES,
        hidden_dim=former.HIDDEN_DIM,
        num_heads=former.NHEADS,
        dim_feedforward=former.DIM_FEEDFORWARD,
        decoder_layers=former.DEC_LAYERS - 1,  # the first output is the learnable queries'
        enforce_input_proj=former.ENFORCE_INPUT_PROJ,
        pixel_mean=config.MODEL.PIXEL_MEAN,
        pixel_std=config.MODEL.PIXEL_STD,
        size_divisibility=former.SIZE_DIVISIBILITY,
    )


def build_backbone(config: Config) -> Backbone:
    """The backbone that MODEL.BACKBONE.NAME chooses, with fresh weights; the sections of the others are not read."""
    model = config.MODEL
    if model.BACKBONE.NAME == "D2SwinTransformer":
        return SwinTransformer(
            embed_dim=model.SWIN.EMBED_DIM,
            depths=model.SWIN.DEPTHS,
            num_heads=model.SWIN.NUM_HEADS,
            window_size=model.SWIN.WINDOW_SIZE,
            drop_path_rate=model.SWIN.DROP_PATH_RATE,
        )
    if model.BACKBONE.NAME == "build_mobilenet_v3_backbone":
        return MobileNetV3(model.MOBILENETV3.ARCH, model.MOBILENETV3.NORM)
    return ResNet(model.RESNETS.DEPTH, model.RESNETS.NORM)


def build_criterion(config: Config) -> SetCriterion:
    """The loss, with the configuration's weights."""
    former = config.MODEL.MASK_FORMER
    return SetCriterion(
        LossWeights(
            classes=former.CLASS_WEIGHT,
            mask=former.MASK_WEIGHT,
            dice=former.DICE_WEIGHT,
            subcategory=former.SUBCATEGORY_WEIGHT,
            no_object=former.NO_OBJECT_WEIGHT,
        ),
        num_points=former.TRAIN_NUM_POINTS,
        oversample_ratio=former.OVERSAMPLE_RATIO,
        importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
        deep_supervision=former.DEEP_SUPERVISION,
    )
