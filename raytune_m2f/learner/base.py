"""The contract of what is trained: a network with its losses, predictions, optimizer and schedule.

An engine builds it; the training loop knows no more of a network than this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from typing_extensions import TypeVar

from raytune_m2f.config import Config
from raytune_m2f.learner.vitals import Vitals

Autocast = AbstractContextManager[Any]
Terms = dict[str, Tensor]
Train = TypeVar("Train", contravariant=True, default=Any)
Test = TypeVar("Test", contravariant=True, default=Any)
Prediction = TypeVar("Prediction", covariant=True, default=Any)


class Learner(Protocol[Train, Test, Prediction]):
    """A network and what it learns by. Samples and predictions are those of the engine that built it."""

    @property
    def model(self) -> nn.Module:
        """The bare network; its state is what a checkpoint holds."""

    @property
    def vitals(self) -> Vitals | None:
        """What is watched of its heads, while it is awake; None of a network that has none to watch."""

    @property
    def max_norm(self) -> float | None:
        """Largest norm of the whole gradient; None where it is not clipped, or by the optimizer itself."""

    def count(self, samples: Sequence[Train]) -> Tensor:
        """What losses are divided by, as sums (on the CPU) that are added over the workers."""

    def losses(
        self,
        forward: Callable[[Any], Any],
        samples: Sequence[Train],
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

    def predict(self, samples: Sequence[Test]) -> Sequence[Prediction]:
        """The predictions of test samples; each has `to(device)`."""

    def optimizer(self, config: Config) -> Optimizer:
        """A new optimizer; `config` may have other values than the learner's own, but the same network."""

    def schedule(self, config: Config) -> Callable[[int], float]:
        """The factor on each of the optimizer's learning rates in an iteration."""

    def load_weights(self, source: str) -> object:
        """Start from the weights of MODEL.WEIGHTS. Raises ModelError if there are none, or of another network."""
