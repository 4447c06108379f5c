"""An exponential moving average of the weights (MODEL_EMA): what is evaluated, kept as the best and exported."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from raytune_m2f.config.fields.solver import ModelEma


class WeightAverage:
    """The average of the weights that are learned; it begins with those after the first step that it sees.

    Frozen weights are what they are, and buffers, such as batch norm's statistics, are always the newest. Each worker
    averages for itself: the same weights, so the same average.

    Args:
        model: the bare network, on its device.
        settings: decay d and warm-up factor f; in step n = 1, 2, ... the average becomes d' average + (1 - d') weights
            with d' = min(d, (1 + n) / (f + n)), so that it forgets the first weights at once.

    Sources: Polyak and Juditsky 1992; the warm-up is that of TensorFlow's ExponentialMovingAverage (`num_updates`), the
    keys are d2go's (d2go/modeling/ema.py).
    """

    def __init__(self, model: nn.Module, settings: ModelEma) -> None:
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._settings = settings
        self._averages: list[Tensor] = []  # none before the first step

    def update(self, iteration: int) -> None:
        """Take in the weights after the step of this iteration, counted from 0."""
        if self._averages:
            weights = [weight.detach() for weight in self._weights]
            get_ema_multi_avg_fn(self.decay(iteration))(self._averages, weights, 0)
        else:
            self.begin()

    def begin(self) -> None:
        """Begin with the weights that the network has now."""
        self._averages = [weight.detach().clone() for weight in self._weights]

    def decay(self, iteration: int) -> float:
        """The share of the average that is kept in the step of this iteration, counted from 0."""
        decay, factor, step = self._settings.DECAY, self._settings.DECAY_WARM_UP_FACTOR, iteration + 1
        return decay if factor < 0 else min(decay, (1 + step) / (factor + step))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the averages into the network for a while; nothing is copied."""
        weights = self._weights if self._averages else []
        learned = [weight.data for weight in weights]
        for weight, average in zip(weights, self._averages, strict=True):
            weight.data = average
        try:
            yield
        finally:
            for weight, own in zip(weights, learned, strict=True):
                weight.data = own
