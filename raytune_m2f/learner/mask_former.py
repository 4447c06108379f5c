"""Our own network: built as the configuration says, and its learner."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data import Categories, TestSample, TrainSample
from raytune_m2f.data.masks import Rle
from raytune_m2f.data.summary import ClassCounts
from raytune_m2f.errors import ConfigError
from raytune_m2f.learner.balance import class_weights, is_balanced
from raytune_m2f.learner.base import Autocast, Terms
from raytune_m2f.learner.optimizer import build_optimizer, schedule_factor
from raytune_m2f.learner.prediction import predict
from raytune_m2f.learner.vitals import Vitals
from raytune_m2f.learner.weights import load_weights
from raytune_m2f.model import (
    Backbone,
    EfficientNetLite,
    LossWeights,
    MobileNetV3,
    MultiTaskMaskFormer,
    PackedInstances,
    RandomPoints,
    ResNet,
    SetCriterion,
    SwinTransformer,
    build_model,
    count_targets,
    pad_masks,
    padded_size,
)

log = logging.getLogger(__name__)


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
        encoder_feedforward=head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
        pixel_decoder_norm=head.NORM == "GN",
        num_queries=former.NUM_OBJECT_QUERIES,
        hidden_dim=former.HIDDEN_DIM,
        num_heads=former.NHEADS,
        dim_feedforward=former.DIM_FEEDFORWARD,
        decoder_layers=former.DEC_LAYERS - 1,  # the first output is the learnable queries'
        enforce_input_proj=former.ENFORCE_INPUT_PROJ,
        query_selection=former.QUERY_SELECTION == "heatmap",
        mask_prior=former.MASK_PRIOR,
        pixel_mean=config.MODEL.PIXEL_MEAN,
        pixel_std=config.MODEL.PIXEL_STD,
        size_divisibility=former.SIZE_DIVISIBILITY,
    )


def build_backbone(config: Config) -> Backbone:
    """The backbone that MODEL.BACKBONE chooses, with fresh weights; the sections of the others are not read."""
    backbone = _fresh_backbone(config)
    backbone.freeze(config.MODEL.BACKBONE.FREEZE_AT)
    return backbone


def _fresh_backbone(config: Config) -> Backbone:
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
    if model.BACKBONE.NAME == "build_efficientnet_lite_backbone":
        return EfficientNetLite(model.EFFICIENTNET_LITE.VARIANT, model.EFFICIENTNET_LITE.NORM)
    return ResNet(model.RESNETS.DEPTH, model.RESNETS.NORM)


def build_criterion(config: Config, instances: ClassCounts | None = None) -> SetCriterion:
    """The loss, with the configuration's weights; those of classes where their training `instances` are known."""
    former = config.MODEL.MASK_FORMER
    return SetCriterion(
        LossWeights(
            classes=former.CLASS_WEIGHT,
            mask=former.MASK_WEIGHT,
            dice=former.DICE_WEIGHT,
            subcategory=former.SUBCATEGORY_WEIGHT,
            no_object=former.NO_OBJECT_WEIGHT,
            heatmap=former.HEATMAP_WEIGHT,
            blob=former.BLOB_WEIGHT,
        ),
        num_points=former.TRAIN_NUM_POINTS,
        oversample_ratio=former.OVERSAMPLE_RATIO,
        importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
        deep_supervision=former.DEEP_SUPERVISION,
        class_weights=class_weights(former, instances) if instances is not None else None,
    )


class MaskFormerLearner:
    """`Learner` of `MultiTaskMaskFormer`: Mask2Former's recipe.

    Args:
        instances: of each class in the training annotations; for CLASS_BALANCE and SUBCATEGORY_BALANCE.
    """

    def __init__(self, config: Config, model: MultiTaskMaskFormer, instances: ClassCounts | None = None):
        self.config = config
        self.model = model
        self.criterion = build_criterion(config, instances)
        self._needs_instances = instances is None and is_balanced(config.MODEL.MASK_FORMER)
        clip = config.SOLVER.CLIP_GRADIENTS
        self.max_norm = clip.CLIP_VALUE if clip.ENABLED else None
        self._warned_of_queries = False
        self.vitals = Vitals(model.sem_seg_head.predictor.classifiers)
        self.criterion.observer = self.vitals.observe

    def count(self, samples: Sequence[TrainSample]) -> Tensor:
        queries = self.model.num_queries
        most = max(len(sample.target) for sample in samples)
        if most > queries and not self._warned_of_queries:
            self._warned_of_queries = True
            log.warning(
                "an image has %d instances but there are only %d queries: at most %d of them can be found. Raise "
                "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES. (This is said once.)",
                *(most, queries, queries),
            )
        targets = [sample.target for sample in samples]
        return count_targets(targets, queries, self.model.heads, self.criterion.class_weights).float()

    def losses(
        self,
        forward: Callable[[Any], Any],
        samples: Sequence[TrainSample],
        counts: Tensor,
        autocast: Autocast,
        place: tuple[int, ...],
    ) -> tuple[Tensor, Terms]:
        if self._needs_instances:
            raise ConfigError(
                "MODEL.MASK_FORMER.CLASS_BALANCE and SUBCATEGORY_BALANCE need the classes' numbers of training "
                "instances, which are not known here: set both to none, or train by raytune_m2f."
            )
        device = self.model.pixel_mean.device
        images = [sample.image for sample in samples]
        size = padded_size(images, self.model.size_divisibility)
        targets = [replace(s.target, masks=pad_masks(s.target.masks, size)).to(device) for s in samples]
        with autocast:
            outputs = forward(images)
        losses = self.criterion(outputs, targets, RandomPoints([sample.seed for sample in samples], device), counts)
        return self.criterion.total(losses), self.criterion.weighted(losses)

    def predict(self, samples: Sequence[TestSample]) -> list[PackedInstances[Rle]]:
        """In float32, as in the reference: the exported model scores the same."""
        sizes = [(sample.height, sample.width) for sample in samples]
        return predict(self.model, self.config, [sample.image for sample in samples], sizes)

    def optimizer(self, config: Config) -> torch.optim.Optimizer:
        return build_optimizer(config, self.model)

    def schedule(self, config: Config) -> Callable[[int], float]:
        return partial(schedule_factor, config)

    def load_weights(self, source: str) -> object:
        return load_weights(self.model, source)
