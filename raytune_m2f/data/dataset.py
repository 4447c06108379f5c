"""Datasets and their order behind a torch DataLoader: a stream without end, the same for any number of workers.

Position p = iteration x global batch + i. Image and augmentation of a position depend on nothing but the
dataset, the seed and p, so there is no sampler state to save: a run that starts at iteration k sees what it
would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from raytune_m2f.data.augment import ColorJitter, CopyPaste, paste
from raytune_m2f.data.images import read_record
from raytune_m2f.data.masks import decode
from raytune_m2f.data.records import CocoDataset, ImageRecord, TestSample, TrainSample
from raytune_m2f.data.transforms import Flip, Jitter, resize_shortest_edge
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.model import Target

Ticket = tuple[int, int]
"""Index into the dataset, position in the stream."""

ORDER, AUGMENTATION = 0, 1
COLOR, PASTE = 4, 5
"""Independent streams of random numbers under one seed; engines have 2 and 3."""


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
        """The number of batches."""
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


class Start(NamedTuple):
    """Another size for the first positions of the stream (INPUT.START).

    Attributes:
        positions: how many.
        image_size, min_scale, max_scale: as of `TrainDataset`.
    """

    positions: int
    image_size: int
    min_scale: float
    max_scale: float


class TrainDataset(Dataset[TrainSample]):
    """Augmented samples. `dataset[index, position]` depends on its arguments, not on what was drawn before.

    Crowds are left out, and so are instances of which the crop shows nothing.

    Args:
        dataset: the checked dataset.
        image_size: side of the square samples, in pixels (INPUT.IMAGE_SIZE).
        min_scale, max_scale: range of the resize, relative to `image_size` (INPUT.MIN_SCALE, MAX_SCALE).
        flip: the kind of random flip (INPUT.RANDOM_FLIP).
        color_jitter: whether colours change too (INPUT.COLOR_AUG_SSD).
        start: another size for the first positions.
        copy_paste: whether instances of other images are pasted.
        seed: SEED of the configuration.
        filter_empty: leave out images without instances, crowds not counted
            (DATALOADER.FILTER_EMPTY_ANNOTATIONS).

    Raises:
        DatasetError: no image is left.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        image_size: int,
        min_scale: float,
        max_scale: float,
        flip: Flip,
        seed: int,
        filter_empty: bool,
        color_jitter: bool = False,
        start: Start | None = None,
        copy_paste: CopyPaste | None = None,
    ) -> None:
        self.dataset = dataset
        self.records = tuple(r for r in dataset.records if r.instances or not filter_empty)
        if not self.records:
            raise DatasetError(
                f"dataset {dataset.name!r} ({dataset.annotations_file}) has no image with an instance "
                "that is not a crowd, so there is nothing to learn from"
            )
        self.seed = seed
        self.color_jitter = color_jitter
        self.copy_paste = copy_paste
        self._sources = [index for index, record in enumerate(self.records) if record.instances]
        self._flip: Flip = flip
        self._later = Start(0, image_size, min_scale, max_scale)
        self._start = start or self._later

    def __len__(self) -> int:
        """The number of images."""
        return len(self.records)

    def __getitem__(self, ticket: Ticket) -> TrainSample:
        """The sample of a (dataset index, position in the stream); see `BatchStream`."""
        index, position = ticket
        record = self.records[index]
        rng = generator(self.seed, AUGMENTATION, position)
        seed = int(rng.integers(2**63))
        jitter = self._jitter(rng, record, position)
        image = jitter.image(read_record(record), self._colors(generator(self.seed, COLOR, position)))
        target = self._target(record, jitter)
        if self.copy_paste is not None:
            image, target = self._pasted(self.copy_paste, image, target, ticket)
        return TrainSample(image=image, target=target, seed=seed)

    def _pasted(self, options: CopyPaste, image: Tensor, target: Target, ticket: Ticket) -> tuple[Tensor, Target]:
        """With instances of another image, perhaps; it is read only if one of them is in its crop."""
        index, position = ticket
        rng = generator(self.seed, PASTE, position)
        sources = [source for source in self._sources if source != index] or self._sources
        if not sources or rng.random() >= options.probability:
            return image, target
        record = self.records[sources[int(rng.integers(len(sources)))]]
        jitter = self._jitter(rng, record, position)
        pasted = self._target(record, jitter, options.choose(rng, len(record.instances)))
        if not len(pasted):
            return image, target
        return paste(image, target, jitter.image(read_record(record), self._colors(rng)), pasted)

    def _colors(self, rng: np.random.Generator) -> ColorJitter | None:
        return ColorJitter.draw(rng) if self.color_jitter else None

    def _jitter(self, rng: np.random.Generator, record: ImageRecord, position: int) -> Jitter:
        _, image_size, min_scale, max_scale = self._start if position < self._start.positions else self._later
        return Jitter.draw(
            rng,
            record.height,
            record.width,
            image_size=image_size,
            min_scale=min_scale,
            max_scale=max_scale,
            flip=self._flip,
        )

    def _target(self, record: ImageRecord, jitter: Jitter, chosen: Sequence[int] | None = None) -> Target:
        """Of the record's instances, or of the `chosen` ones, those that the crop shows."""
        instances = record.instances if chosen is None else [record.instances[number] for number in chosen]
        rles = [a.rle(record.height, record.width) for a in instances]
        masks = jitter.masks(decode(rles, record.height, record.width))
        visible = masks.flatten(1).any(1)
        kept = [a for a, is_visible in zip(instances, visible.tolist(), strict=True) if is_visible]
        return Target(
            labels=torch.tensor([a.label for a in kept], dtype=torch.int64),
            masks=masks if len(kept) == len(masks) else masks[visible],
            sublabels={
                head: torch.tensor([a.sublabels[head] for a in kept], dtype=torch.int64)
                for head in self.dataset.categories.subcategories
            },
        )


class TestDataset(Dataset[TestSample]):
    """The images as they are, resized for the network; images without annotations included.

    Args:
        dataset: the checked dataset.
        min_size: length of the shorter edge, in pixels; 0 keeps the size (INPUT.MIN_SIZE_TEST).
        max_size: the longer edge is not made longer than this (INPUT.MAX_SIZE_TEST).
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    def __init__(self, dataset: CocoDataset, *, min_size: int, max_size: int) -> None:
        self.dataset = dataset
        self.min_size = min_size
        self.max_size = max_size

    def __len__(self) -> int:
        """The number of images."""
        return len(self.dataset.records)

    def __getitem__(self, index: int) -> TestSample:
        """The sample of the image at `index`."""
        record = self.dataset.records[index]
        image = resize_shortest_edge(read_record(record), self.min_size, self.max_size)
        return TestSample(image=image, image_id=record.id, height=record.height, width=record.width, file=record.file)
