"""The learner of our own network."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from raytune_m2f.config import Config
from raytune_m2f.data import TestSample, TrainSample
from raytune_m2f.learner.base import Autocast, Terms
from raytune_m2f.learner.build import build_criterion
from raytune_m2f.learner.optimizer import build_optimizer, build_scheduler
from raytune_m2f.learner.weights import load_weights
from raytune_m2f.model import (
    Instances,
    MultiTaskMaskFormer,
    RandomPoints,
    Target,
    count_targets,
    pad_masks,
    padded_size,
)

log = logging.getLogger(__name__)


class MaskFormerLearner:
    """`Learner` of `MultiTaskMaskFormer`: Mask2Former's recipe."""

    def __init__(self, config: Config, model: MultiTaskMaskFormer):
        self.config = config
        self.model = model
        self.criterion = build_criterion(config)
        clip = config.SOLVER.CLIP_GRADIENTS
        self.max_norm = clip.CLIP_VALUE if clip.ENABLED else None
        self._warned_of_queries = False

    def count(self, samples: Sequence[TrainSample]) -> Tensor:
        queries = self.model.num_queries
        most = max(len(sample.target) for sample in samples)
        if most > queries and not self._warned_of_queries:
            self._warned_of_queries = True
            log.warning(
                "an image has %d instances but there are only %d queries: at most %d of them can be found. Raise "
                "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES. (This is said once.)",
                most,
                queries,
                queries,
            )
        return count_targets([sample.target for sample in samples], queries, self.model.heads).float()

    def losses(
        self,
        forward: Callable[[Any], Any],
        samples: Sequence[TrainSample],
        counts: Tensor,
        autocast: Autocast,
        place: tuple[int, ...],
    ) -> tuple[Tensor, Terms]:
        device = self.model.pixel_mean.device
        images = [sample.image for sample in samples]
        size = padded_size(images, self.model.size_divisibility)
        targets = [_padded(sample.target, size).to(device) for sample in samples]
        with autocast:
            outputs = forward(images)
        losses = self.criterion(outputs, targets, RandomPoints([sample.seed for sample in samples], device), counts)
        return self.criterion.total(losses), self.criterion.weighted(losses)

    def predict(self, samples: Sequence[TestSample]) -> list[Instances]:
        """In float32, as in the reference: the exported model scores the same."""
        return self.model.predict(
            [sample.image for sample in samples],
            [(sample.height, sample.width) for sample in samples],
            max_instances=self.config.TEST.DETECTIONS_PER_IMAGE,
            ranking=self.config.MODEL.MASK_FORMER.TEST.RANKING,
        )

    def optimizer(self, config: Config) -> torch.optim.Optimizer:
        return build_optimizer(config, self.model)

    def scheduler(self, config: Config, optimizer: torch.optim.Optimizer) -> LRScheduler:
        return build_scheduler(config, optimizer)

    def load_weights(self, source: str) -> object:
        return load_weights(self.model, source)


def _padded(target: Target, size: tuple[int, int]) -> Target:
    return Target(target.labels, pad_masks(target.masks, size), target.sublabels)
