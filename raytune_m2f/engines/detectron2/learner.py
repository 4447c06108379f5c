"""Any network of detectron2's: its losses, optimizer and schedule as a `Learner`, and its predictions as ours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raytune_m2f.config import Config
from raytune_m2f.engines.detectron2.catalog import Entry
from raytune_m2f.engines.detectron2.cfg import cfg_of, load_library, one_config_error
from raytune_m2f.errors import ConfigError, ModelError
from raytune_m2f.learner.base import Autocast, Terms
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.learner.weight_files import read_state_dict
from raytune_m2f.model import Instances, NonFiniteError

STEP = 3
"""The stream of random numbers that a network draws from; `engines.datasets` has stream 2."""


class AnyModelLearner:
    """Samples are what detectron2's mapper gives, predictions its Instances.

    A loss of a micro-batch is a mean over its images; shares are by the number of images.
    """

    vitals = None
    max_norm = None  # detectron2's optimizer clips by itself

    def __init__(self, config: Config):
        self.config = config
        self._library = load_library()
        self.model: nn.Module = build_any_model(config)

    def count(self, samples: Sequence[Entry]) -> Tensor:
        return torch.tensor([float(len(samples))])

    def losses(
        self,
        forward: Callable[[Any], Any],
        samples: Sequence[Entry],
        counts: Tensor,
        autocast: Autocast,
        place: tuple[int, ...],
    ) -> tuple[Tensor, Terms]:
        """What the network draws (proposals, say) depends on SEED and `place` alone."""
        seed = np.random.SeedSequence(self.config.SEED, spawn_key=(STEP, *place)).generate_state(2)
        torch.manual_seed(int(seed[0]) << 32 | int(seed[1]))
        share = len(samples) / float(counts[0])
        try:
            with self._library.EventStorage(place[0]), autocast:
                terms = {name: value * share for name, value in forward(list(samples)).items()}
        except FloatingPointError as error:
            raise NonFiniteError(str(error)) from error
        return torch.stack(list(terms.values())).sum(), terms

    def predict(self, samples: Sequence[Entry]) -> list[Any]:
        """Raises ConfigError if it predicts no instances."""
        outputs = self.model(list(samples))
        if "instances" not in outputs[0]:
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE = {self.config.MODEL.META_ARCHITECTURE!r} predicts {', '.join(outputs[0])}, "
                "but only instances are scored: take a network that predicts them."
            )
        return [output["instances"] for output in outputs]

    def optimizer(self, config: Config) -> torch.optim.Optimizer:
        with one_config_error("the optimizer (SOLVER)"):
            return cast(torch.optim.Optimizer, self._library.build_optimizer(_at_rate(config), self.model))

    def schedule(self, config: Config) -> Callable[[int], float]:
        """What detectron2's scheduler, a function of the iteration alone, makes of a rate of 1."""
        one = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        with one_config_error("the schedule (SOLVER)"):
            scheduler = self._library.build_lr_scheduler(_at_rate(config), one)

        def factor(iteration: int) -> float:
            scheduler.last_epoch = iteration
            return float(scheduler.get_lr()[0])

        return factor

    def load_weights(self, source: str) -> object:
        """Raises ModelError if nothing fits."""
        own = self.model.state_dict()
        fitting = self._library.align(read_state_dict(source), own)
        if not fitting:
            raise ModelError(
                f"MODEL.WEIGHTS = {source!r}: none of its tensors fits this network, whose are called e.g. "
                f"{', '.join(list(own)[:3])}. Give weights in detectron2's names."
            )
        return self.model.load_state_dict(fitting, strict=False)


def build_any_model(config: Config) -> nn.Module:
    """The network of MODEL.META_ARCHITECTURE with fresh weights, on the CPU. Raises ConfigError if there is none."""
    cfg = cfg_of(config)
    cfg.MODEL.DEVICE = "cpu"  # it is moved afterwards
    with one_config_error(f"MODEL.META_ARCHITECTURE {config.MODEL.META_ARCHITECTURE!r}"):
        return cast(nn.Module, load_library().build_model(cfg))


def predict_any(
    network: nn.Module, config: Config, images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]]
) -> list[Instances]:
    """The instances of (3, h, w) RGB images as ours. Raises ModelError if there are no masks."""
    bgr = config.value("INPUT.FORMAT") == "BGR"
    inputs = [
        {"image": image.flip(0) if bgr else image, "height": height, "width": width}
        for image, (height, width) in zip(images, original_sizes, strict=True)
    ]
    return [_our_instances(output["instances"]) for output in network(inputs)]


def resize_any(config: Config, image: NDArray[np.uint8]) -> Tensor:
    """A (H, W, 3) RGB image, (3, h, w) as detectron2's mapper resizes it for tests."""
    resized = load_library().resized_for_test(cfg_of(config), image)
    return torch.from_numpy(np.ascontiguousarray(resized.transpose(2, 0, 1)))


def _our_instances(found: Any) -> Instances:
    """Predictions of detectron2's as ours, best first."""
    if not found.has("pred_masks"):
        raise ModelError(
            "this model predicts no masks (MODEL.MASK_ON is false), which predictions and their scores are made of: "
            "load its model.pth in detectron2 instead."
        )
    order = found.scores.argsort(descending=True, stable=True)
    return Instances(
        scores=found.scores[order],
        labels=found.pred_classes[order],
        masks=found.pred_masks[order],
        queries=torch.arange(len(order), device=order.device),
    )


def _at_rate(config: Config) -> Any:
    """detectron2's configuration with the learning rate of this global batch."""
    cfg = cfg_of(config)
    cfg.SOLVER.BASE_LR = effective_lr(config)
    return cfg
