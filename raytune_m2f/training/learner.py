"""What is trained: how the losses of a micro-batch come about, and how predictions do. An engine builds it.

`Stepper` and `train_trial` know no more of a network than this.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from model import Instances, MultiTaskMaskFormer, RandomPoints, Target, count_targets, pad_masks, padded_size
from raytune_m2f.config import Config
from raytune_m2f.data import TestSample, TrainSample
from raytune_m2f.training.build import build_criterion
from raytune_m2f.training.optimizer import build_optimizer, build_scheduler
from raytune_m2f.training.weights import load_weights

log = logging.getLogger(__name__)

Autocast = AbstractContextManager[Any]
Terms = dict[str, Tensor]


class Learner(Protocol):
    """A network and what it learns by. Samples and predictions are those of the engine that built it."""

    @property
    def model(self) -> nn.Module:
        """The bare network; its state is what a checkpoint holds."""

    @property
    def max_norm(self) -> float | None:
        """Largest norm of the whole gradient; None where it is not clipped, or by the optimizer itself."""

    def count(self, samples: Sequence[Any]) -> Tensor:
        """What losses are divided by, as sums (on the CPU) that are added over the workers."""

    def losses(
        self,
        forward: Callable[[Any], Any],
        samples: Sequence[Any],
        counts: Tensor,
        autocast: Autocast,
        place: tuple[int, ...],
    ) -> tuple[Tensor, Terms]:
        """The losses of a micro-batch as shares: their sum over all micro-batches and workers is the global batch's.

        Args:
            forward: `model`, perhaps compiled, or wrapped for several workers.
            counts: `count` of the global batch.
            autocast: mixed precision, to be entered once.
            place: iteration, rank and number of the micro-batch: where random numbers may come from.

        Returns:
            what is minimised, and its terms.

        Raises:
            NonFiniteError: of `model`: a prediction is NaN or infinite.
        """

    def predict(self, samples: Sequence[Any]) -> Sequence[Any]:
        """The predictions of test samples; each has `to(device)`."""

    def optimizer(self, config: Config) -> torch.optim.Optimizer:
        """A new optimizer; `config` may have other values than the learner's own, but the same network."""

    def scheduler(self, config: Config, optimizer: torch.optim.Optimizer) -> LRScheduler:
        """The schedule of the learning rates, a function of the iteration alone."""

    def load_weights(self, source: str) -> object:
        """Start from the weights of MODEL.WEIGHTS. Raises ModelError if there are none, or of another network."""


class MaskFormerLearner:
    """`Learner` of our own network."""

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
