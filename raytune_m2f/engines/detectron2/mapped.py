"""Images through a mapper of detectron2's kind, which draws from the global generators, and yet the same every time."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from raytune_m2f.data import BatchStream
from raytune_m2f.data.dataset import AUGMENTATION, Ticket, generator
from raytune_m2f.errors import DatasetError

Entry = Mapping[str, Any]
Mapper = Callable[[Any], Any]


@contextmanager
def seeded(seed: int, position: int) -> Iterator[int]:
    """What is drawn here from the generators of Python, numpy and torch depends on the seed and the position alone.

    Yields:
        a number of the same kind, for what is drawn later.
    """
    number = int(generator(seed, AUGMENTATION, position).integers(2**63))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    try:
        yield number
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass
class MappedDataset(Dataset[Any]):
    """Mapped training images. `dataset[index, position]` depends on its arguments, not on what was drawn before.

    Attributes:
        entries: detectron2's dictionaries.
        mapper: makes a sample of a copy of one; None means that it is of no use, and the next one is taken.
        finish: makes of what the mapper gives, and a seed, what the network learns from.
    """

    entries: Sequence[Entry]
    mapper: Mapper
    finish: Callable[[Any, int], Any]
    seed: int

    def __getitem__(self, ticket: Ticket) -> Any:
        index, position = ticket
        with seeded(self.seed, position) as number:
            for skipped in range(len(self)):
                entry = self.entries[(index + skipped) % len(self)]
                if (mapped := mapped_by(self.mapper, entry)) is not None:
                    return self.finish(mapped, number)
        raise DatasetError("the mapper refuses every training image (it gives None)")

    def __len__(self) -> int:
        return len(self.entries)


@dataclass
class MappedTestDataset(Dataset[Any]):
    """Mapped test images; see `MappedDataset`."""

    entries: Sequence[Entry]
    mapper: Mapper
    finish: Callable[[Any, Entry], Any]

    def __getitem__(self, index: int) -> Any:
        return self.finish(mapped_by(self.mapper, self.entries[index]), self.entries[index])

    def __len__(self) -> int:
        return len(self.entries)


def mapped_by(mapper: Mapper, entry: Entry) -> Any:
    """What the mapper makes of an entry. Raises DatasetError with the image's name, whatever went wrong."""
    try:
        return mapper(copy.deepcopy(entry))
    except Exception as error:
        raise DatasetError(f"image {entry['file_name']} cannot be mapped: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class SampledBatches:
    """The batches of a stream with the indices of another: those of a sampler of detectron2's.

    Attributes:
        batches: which positions are this worker's.
        indices: makes the sampler's stream for all workers, from its start.
    """

    batches: BatchStream
    indices: Callable[[], Iterator[int]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Ticket]]:
        stream = enumerate(self.indices())
        for batch in self.batches:
            yield [(next(index for at, index in stream if at == position), position) for _, position in batch]
