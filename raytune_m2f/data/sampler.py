"""Which image comes when: a stream without end, the same for any number of workers and after any restart.

Position p = iteration x global batch + i. Image and augmentation of a position depend on nothing but the
dataset, the seed and p, so there is no sampler state to save: a run that starts at iteration k sees what it
would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytune_m2f.errors import ConfigError, DatasetError

Ticket = tuple[int, int]
"""Index into the dataset, position in the stream."""

ORDER, AUGMENTATION = 0, 1
"""Independent streams of random numbers under one seed."""


def generator(seed: int, stream: int, number: int) -> np.random.Generator:
    """Random numbers that depend on (seed, stream, number) alone, independent between any two of them."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, number)))


class StreamSampler:
    """The stream: one permutation of the dataset after the other, each drawn from (seed, epoch).

    Raises:
        DatasetError: the dataset has no image.
    """

    def __init__(self, size: int, seed: int) -> None:
        if size < 1:
            raise DatasetError("there is no image to train on: the dataset is empty, or no image has an instance")
        self.size = size
        self.seed = seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def index(self, position: int) -> int:
        """The dataset index at a position of the stream."""
        epoch, place = divmod(position, self.size)
        if epoch != self._epoch:
            self._order = generator(self.seed, ORDER, epoch).permutation(self.size)
            self._epoch = epoch
        return int(self._order[place])


@dataclass(frozen=True)
class BatchStream:
    """This worker's part of every batch from `start_iteration` on; serves as `batch_sampler` of a DataLoader.

    The positions of a global batch are split into `world_size` runs in order of rank, equal up to one.

    Attributes:
        size: images of the dataset.
        seed: SEED of the configuration.
        global_batch: images per optimizer step over all workers (SOLVER.IMS_PER_BATCH).
        rank, world_size: this worker among the workers.
        start_iteration: the first iteration to yield; not 0 after a restart.
        max_iterations: the iteration to stop before (SOLVER.MAX_ITER).

    Raises:
        ConfigError: a worker would get no image.
        DatasetError: the dataset has no image.
    """

    size: int
    seed: int
    global_batch: int
    rank: int
    world_size: int
    start_iteration: int
    max_iterations: int

    def __post_init__(self) -> None:
        if self.global_batch < self.world_size:
            raise ConfigError(
                f"SOLVER.IMS_PER_BATCH = {self.global_batch} is less than the {self.world_size} workers: "
                "each needs an image at least. Raise the batch or use fewer workers."
            )
        StreamSampler(self.size, self.seed)

    def __len__(self) -> int:
        return max(0, self.max_iterations - self.start_iteration)

    def __iter__(self) -> Iterator[list[Ticket]]:
        sampler = StreamSampler(self.size, self.seed)
        first = self.global_batch * self.rank // self.world_size
        last = self.global_batch * (self.rank + 1) // self.world_size
        for iteration in range(self.start_iteration, self.max_iterations):
            start = iteration * self.global_batch
            yield [(sampler.index(p), p) for p in range(start + first, start + last)]


def shard(size: int, rank: int, world_size: int) -> range:
    """The dataset indices that this worker evaluates: over all workers each once, numbers equal up to one."""
    return range(rank, size, world_size)
