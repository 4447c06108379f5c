"""The datasets of an experiment: read, checked against one another, and the subset of the test images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from raytune_m2f.config import Config
from raytune_m2f.data import CocoDataset, DataSummary, check_same_labels, load_coco, summarize_all
from raytune_m2f.data.dataset import Ticket, generator
from raytune_m2f.errors import ConfigError
from raytune_m2f.storage.temporary import keep_multiprocessing_short

T = TypeVar("T")

SUBSET = 2
"""The stream of random numbers that chooses TEST.SUBSET images; `data.sampler` has streams 0 and 1."""


@dataclass(frozen=True)
class Datasets:
    """What an experiment trains on and is scored by.

    Attributes:
        train: all training sets as one.
        test, test_subset: the test set, and the images of TEST.SUBSET.
        train_files: the training sets one by one.
        filter_empty: whether images without instances are left out of training.
        look: whether the summary looks at image files.
    """

    train: CocoDataset
    test: CocoDataset
    test_subset: CocoDataset
    train_files: tuple[CocoDataset, ...]
    filter_empty: bool
    look: bool = False

    @cached_property
    def summary(self) -> DataSummary:
        """What was read, in numbers."""
        return summarize_all(self.train_files, self.test, filter_empty=self.filter_empty, inspect_images=self.look)

    @property
    def most_instances(self) -> int:
        """Of the fullest training image, crowds not counted."""
        return max((len(record.instances) for record in self.train.records), default=0)

    def scored(self, subset: bool) -> CocoDataset:
        return self.test_subset if subset else self.test


def load_datasets(config: Config, load: Callable[[str], CocoDataset], *, look: bool = False) -> Datasets:
    """Read the datasets of the configuration, each by `load`; `look` at their image files for the summary.

    Raises:
        ConfigError: none is named, or there is nothing to find in the images of TEST.SUBSET.
        DatasetError: their labels differ.
    """
    files = tuple(load(name) for name in config.DATASETS.TRAIN)
    train = merge(files)
    test = load(only_test_dataset(config))
    check_same_labels(train, test)
    subset = subset_of(test, config.TEST.SUBSET, config.SEED)
    return Datasets(train, test, subset, files, config.DATALOADER.FILTER_EMPTY_ANNOTATIONS, look)


def load_registered(config: Config, name: str) -> CocoDataset:
    """Read and check the dataset registered as `name`."""
    entry = config.dataset(name)
    return load_coco(name, Path(entry.annotations), Path(entry.images), config.DATASETS.SUBCATEGORIES)


def only_test_dataset(config: Config) -> str:
    """The one dataset that scores a trial."""
    if not config.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name the dataset of DATASETS.REGISTER that scores the training.")
    return config.DATASETS.TEST[0]


def merge(datasets: Sequence[CocoDataset]) -> CocoDataset:
    """Several training sets as one; their labels must mean the same."""
    if not datasets:
        raise ConfigError("DATASETS.TRAIN is empty: name at least one dataset of DATASETS.REGISTER to train on.")
    first, *others = datasets
    for other in others:
        check_same_labels(first, other)
    return replace(
        first,
        name="+".join(dataset.name for dataset in datasets),
        records=tuple(record for dataset in datasets for record in dataset.records),
    )


def subset_of(dataset: CocoDataset, size: int, seed: int) -> CocoDataset:
    """`size` images of a test set (0: all), in its order; a larger choice of the same seed holds a smaller one."""
    if size == 0 or size >= len(dataset.records):
        return dataset
    chosen = sorted(generator(seed, SUBSET, 0).permutation(len(dataset.records))[:size].tolist())
    records = tuple(dataset.records[index] for index in chosen)
    if not any(record.instances for record in records) and any(record.instances for record in dataset.records):
        raise ConfigError(
            f"TEST.SUBSET = {size} with SEED = {seed} chooses images of {dataset.annotations_file} in which there is "
            "no instance to find. Raise TEST.SUBSET, or set it to 0 for all images."
        )
    return replace(dataset, records=records)


def check_num_classes(config: Config, key: str, dataset: CocoDataset, *, may_be_0: bool) -> None:
    """The number of classes must be what the annotations have; with `may_be_0` it may be left out (0).

    Raises:
        ConfigError: it is another.
    """
    given, found = config.value(key), len(dataset.categories.names)
    if given == found or (may_be_0 and given == 0):
        return
    instead = ", or to 0 to take it from the annotations" if may_be_0 else ""
    raise ConfigError(
        f"{key} = {given}, but {dataset.annotations_file} has {found} categories. Set it to {found}{instead}."
    )


def batch_loader(
    config: Config, dataset: Dataset[T], *, batch_sampler: Iterable[list[Ticket]] | None = None, batch_size: int = 1
) -> DataLoader[T]:
    """Batches as lists of samples, made in DATALOADER.NUM_WORKERS processes, or in this one."""
    workers = config.DATALOADER.NUM_WORKERS
    if workers:
        keep_multiprocessing_short()
    return DataLoader(
        dataset,
        batch_size=1 if batch_sampler is not None else batch_size,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=list,
        # a forked child of a process with running threads (Ray's, torch's) may hang
        multiprocessing_context="forkserver" if workers else None,
    )
