"""The datasets of an experiment, read and checked against one another, and an engine over them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from torch.utils.data import DataLoader, Dataset

from raytune_m2f.config import Config
from raytune_m2f.data import BatchStream, CocoDataset, DataSummary, check_same_labels, load_coco, shard, summarize_all
from raytune_m2f.data.dataset import Ticket, generator
from raytune_m2f.engines.base import Engine, Prediction, Test, Train
from raytune_m2f.errors import ConfigError
from raytune_m2f.evaluation import CocoEvaluator, Evaluator, Gather
from raytune_m2f.evaluation.coco import Task
from raytune_m2f.evaluation.evaluator import ToResults, instance_results
from raytune_m2f.storage.temporary import keep_multiprocessing_short

Sample = TypeVar("Sample", covariant=True)

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
        return summarize_all(self.train_files, self.test, filter_empty=self.filter_empty, look=self.look)

    @property
    def most_instances(self) -> int:
        """Of the fullest training image, crowds not counted."""
        return max((len(record.instances) for record in self.train.records), default=0)

    def scored(self, subset: bool) -> CocoDataset:
        """All test images, or those of TEST.SUBSET."""
        return self.test_subset if subset else self.test


class Samples(Protocol[Sample]):
    """A map-style dataset of torch that knows its length."""

    def __getitem__(self, index: Any) -> Sample: ...

    def __len__(self) -> int: ...


class DatasetEngine(Engine[Train, Test, Prediction]):
    """An engine over checked COCO datasets; a subclass says how their images become samples."""

    def __init__(self, config: Config, datasets: Datasets):
        self.config = config
        self.datasets = datasets
        self.categories = datasets.train.categories
        self.most_instances = datasets.most_instances
        self.summary = datasets.summary

    @abstractmethod
    def train_samples(self) -> Samples[Train]:
        """The training images, by `Ticket`."""

    @abstractmethod
    def test_samples(self, dataset: CocoDataset) -> Samples[Test]:
        """Test images, by their index."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What of a prediction is scored."""
        return ("segm",)

    @property
    def to_results(self) -> ToResults:
        """How the evaluator reads test samples and predictions."""
        return instance_results

    def tickets(self, stream: BatchStream) -> Iterable[list[Ticket]]:
        """This worker's batches as tickets."""
        return stream

    def train_batches(self, *, rank: int, world_size: int, start_iteration: int) -> Iterator[list[Train]]:
        config, samples = self.config, self.train_samples()
        stream = BatchStream(
            size=len(samples),
            seed=config.SEED,
            global_batch=config.SOLVER.IMS_PER_BATCH,
            rank=rank,
            world_size=world_size,
            start_iteration=start_iteration,
            max_iterations=config.SOLVER.MAX_ITER,
        )
        return iter(batch_loader(config, samples, self.tickets(stream)))

    def test_batches(self, *, rank: int, world_size: int, subset: bool = False) -> Iterable[list[Test]]:
        samples = self.test_samples(self.datasets.scored(subset))
        own, size = list(shard(len(samples), rank, world_size)), self.config.TEST.IMS_PER_BATCH
        return batch_loader(self.config, samples, [own[at : at + size] for at in range(0, len(own), size)])

    def evaluator(self, gather: Gather | None = None, *, subset: bool = False) -> Evaluator[Test, Prediction]:
        settings = self.config.TEST
        return CocoEvaluator(
            self.datasets.scored(subset),
            tasks=self.tasks,
            max_detections=settings.DETECTIONS_PER_IMAGE,
            bootstrap=settings.BOOTSTRAP,
            gather=gather,
            to_results=self.to_results,
        )


def load_datasets(config: Config, load: Callable[[str], CocoDataset], *, look: bool = False) -> Datasets:
    """Read the datasets of the configuration, each by `load`; `look` at their image files for the summary.

    Raises:
        ConfigError: none is named, or there is nothing to find in the images of TEST.SUBSET.
        DatasetError: their labels differ.
    """
    files = tuple(load(name) for name in config.DATASETS.TRAIN)
    train = merged(files)
    test = load(test_dataset_name(config))
    check_same_labels(train, test)
    subset = subset_of(test, config.TEST.SUBSET, config.SEED)
    return Datasets(train, test, subset, files, config.DATALOADER.FILTER_EMPTY_ANNOTATIONS, look)


def load_registered(config: Config, name: str) -> CocoDataset:
    """Read and check the dataset of DATASETS.REGISTER. Raises ConfigError if it is not there, and DatasetError."""
    entry = config.dataset(name)
    return load_coco(name, Path(entry.annotations), Path(entry.images), config.DATASETS.SUBCATEGORIES)


def test_dataset_name(config: Config) -> str:
    """The one dataset that scores a trial. Raises ConfigError if there is none."""
    if not config.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name the dataset of DATASETS.REGISTER that scores the training.")
    return config.DATASETS.TEST[0]


def merged(datasets: Sequence[CocoDataset]) -> CocoDataset:
    """Several training sets as one.

    Raises:
        ConfigError: there is none.
        DatasetError: their labels do not mean the same.
    """
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
    """`size` images of a test set (0: all), in its order; a larger choice of the same seed holds a smaller one.

    Raises:
        ConfigError: none of them has an instance, though others have.
    """
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


def batch_loader(config: Config, samples: Samples[Sample], batches: Iterable[list[Any]]) -> Iterable[list[Sample]]:
    """Batches as lists of samples, made in DATALOADER.NUM_WORKERS processes, or in this one.

    Args:
        batches: the indices of each.
    """
    workers = config.DATALOADER.NUM_WORKERS
    if workers:
        keep_multiprocessing_short()
    return DataLoader(
        cast("Dataset[Sample]", samples),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
        # a forked child of a process with running threads (Ray's, torch's) may hang
        multiprocessing_context="forkserver" if workers else None,
    )
