"""Records to samples: the datasets behind a torch DataLoader."""

from __future__ import annotations

import torch
from torch.utils.data import Dataset

from model import Target
from raytune_m2f.data.images import read_record
from raytune_m2f.data.masks import decode
from raytune_m2f.data.records import Annotation, CocoDataset, ImageRecord
from raytune_m2f.data.sampler import AUGMENTATION, Ticket, generator
from raytune_m2f.data.samples import TestSample, TrainSample
from raytune_m2f.data.transforms import Flip, Jitter, resize_shortest_edge
from raytune_m2f.errors import DatasetError


class TrainDataset(Dataset[TrainSample]):
    """Augmented samples. `dataset[index, position]` depends on its arguments, not on what was drawn before.

    Crowds are left out, and so are instances of which the crop shows nothing.

    Args:
        dataset: the checked dataset.
        image_size: side of the square samples, in pixels (INPUT.IMAGE_SIZE).
        min_scale, max_scale: range of the resize, relative to `image_size` (INPUT.MIN_SCALE, MAX_SCALE).
        flip: the kind of random flip (INPUT.RANDOM_FLIP).
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
    ) -> None:
        self.dataset = dataset
        self.records = tuple(r for r in dataset.records if r.instances or not filter_empty)
        if not self.records:
            raise DatasetError(
                f"dataset {dataset.name!r} ({dataset.annotations_file}) has no image with an instance "
                "that is not a crowd, so there is nothing to learn from"
            )
        self.image_size = image_size
        self.min_scale = min_scale
        self.max_scale = max_scale
        self.flip = flip
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, ticket: Ticket) -> TrainSample:
        """The sample of a (dataset index, position in the stream); see `BatchStream`."""
        index, position = ticket
        record = self.records[index]
        image = read_record(record)
        rng = generator(self.seed, AUGMENTATION, position)
        seed = int(rng.integers(2**63))
        jitter = Jitter.draw(
            rng,
            record.height,
            record.width,
            image_size=self.image_size,
            min_scale=self.min_scale,
            max_scale=self.max_scale,
            flip=self.flip,
        )
        return TrainSample(image=jitter.image(image), target=self._target(record, jitter), seed=seed)

    def _target(self, record: ImageRecord, jitter: Jitter) -> Target:
        instances = record.instances
        rles = [a.rle(record.height, record.width) for a in instances]
        masks = jitter.masks(decode(rles, record.height, record.width))
        seen = masks.flatten(1).any(1)
        kept = [a for a, visible in zip(instances, seen.tolist(), strict=True) if visible]
        return Target(
            labels=torch.tensor([a.label for a in kept], dtype=torch.int64),
            masks=masks if len(kept) == len(masks) else masks[seen],
            sublabels={head: _sublabels(kept, head) for head in self.dataset.categories.subcategories},
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
        return len(self.dataset.records)

    def __getitem__(self, index: int) -> TestSample:
        record = self.dataset.records[index]
        image = resize_shortest_edge(read_record(record), self.min_size, self.max_size)
        return TestSample(image=image, image_id=record.id, height=record.height, width=record.width, file=record.file)


def _sublabels(annotations: list[Annotation], head: str) -> torch.Tensor:
    return torch.tensor([a.sublabels[head] for a in annotations], dtype=torch.int64)
