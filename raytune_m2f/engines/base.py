"""The contract of an engine: the only seam to detectron2.

An engine turns datasets into batches and predictions into metrics; it never trains. Batches and predictions are of its
own types: its `learner` learns from the ones and makes the others. What it promises:

- A batch depends on the configuration and the iteration alone. Over one worker or several, from the start or from a
  later iteration, the same iteration has the same samples, with the same augmentation.
- Over all workers every test image is given out exactly once; the same holds for the subset of TEST.SUBSET images,
  which is chosen by the configuration alone.
- Labels are checked against their ranges before the first batch.
- The losses of a learner depend on the weights, the samples and their place in the training alone, so that a restart
  sees what it would have seen, and they are shares of the global batch.
- It has no state: nothing of an engine goes into a checkpoint but its learner's network.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic

from typing_extensions import TypeVar

from raytune_m2f.data import Categories, DataSummary
from raytune_m2f.evaluation import Evaluator, Gather
from raytune_m2f.learner.base import Learner

Train = TypeVar("Train", default=Any)
Test = TypeVar("Test", default=Any)
Prediction = TypeVar("Prediction", default=Any)


class Engine(ABC, Generic[Train, Test, Prediction]):
    """Datasets to batches of `Train` and `Test` samples, predictions to metrics.

    Attributes:
        categories: names of the main categories and of every trained subcategory head.
        most_instances: of the fullest training sample, crowds not counted, and those of other images that it may get.
        summary: what was read, in numbers.
    """

    categories: Categories
    most_instances: int
    summary: DataSummary

    @abstractmethod
    def train_batches(self, *, rank: int, world_size: int, start_iteration: int) -> Iterator[list[Train]]:
        """This worker's part of the global batch, for every iteration from `start_iteration` to MAX_ITER.

        Raises:
            ConfigError: the global batch has less images than there are workers.
            DatasetError: an image cannot be read.
        """

    @abstractmethod
    def test_batches(self, *, rank: int, world_size: int, subset: bool = False) -> Iterable[list[Test]]:
        """This worker's part of the test images, or of their `subset`, in batches of at most TEST.IMS_PER_BATCH."""

    @abstractmethod
    def evaluator(self, gather: Gather | None = None, *, subset: bool = False) -> Evaluator[Test, Prediction]:
        """An evaluator of the test images, or of their `subset` only; `gather` where there are several workers."""

    @abstractmethod
    def learner(self) -> Learner[Train, Test, Prediction]:
        """A network for these datasets with fresh weights, drawn from torch's generator, on the CPU."""
