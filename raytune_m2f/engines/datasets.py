"""The datasets of an experiment, read and checked against one another, and the engines over them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from torch.utils.data import DataLoader, Dataset

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import (
    BatchStream,
    CocoDataset,
    DataSummary,
    TestDataset,
    TestSample,
    TrainDataset,
    TrainSample,
    check_same_labels,
    load_coco,
    shard,
    summarize_all,
)
from raytune_m2f.data.augment import CopyPaste
from raytune_m2f.data.dataset import Start, Ticket, generator
from raytune_m2f.engines.base import Engine, Prediction, Test, Train
from raytune_m2f.errors import ConfigError
from raytune_m2f.evaluation import CocoEvaluator, Evaluator, Gather
from raytune_m2f.evaluation.coco import require_evaluator
from raytune_m2f.evaluation.evaluator import Predicted, ToResults, instance_results
from raytune_m2f.evaluation.overlaps import Task
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network
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
        summary: what was read, in numbers.
    """

    train: CocoDataset
    test: CocoDataset
    test_subset: CocoDataset
    summary: DataSummary

    def scored(self, subset: bool) -> CocoDataset:
        """All test images, or those of TEST.SUBSET."""
        return self.test_subset if subset else self.test


class Samples(Protocol[Sample]):
    """A map-style dataset of torch that knows its length."""

    def __getitem__(self, index: Any) -> Sample: ...

    def __len__(self) -> int: ...


class DatasetEngine(Engine[Train, Test, Prediction]):
    """An engine over checked COCO datasets; a subclass says how their images become samples.

    Attributes:
        tasks: what of a prediction is scored.
        to_results: how the evaluator reads test samples and predictions.

    Raises:
        MissingDependencyError: TEST.EVALUATOR is not installed.
    """

    tasks: tuple[Task, ...] = ("segm",)
    to_results: ToResults = staticmethod(instance_results)

    def __init__(self, config: Config, datasets: Datasets):
        require_evaluator(config.TEST.EVALUATOR)  # before anything trains
        self.config = config
        self.datasets = datasets
        self.categories = datasets.train.categories
        self.summary = datasets.summary
        self.most_instances = self.summary.most_instances

    @abstractmethod
    def train_samples(self) -> Samples[Train]:
        """The training images, by `Ticket`."""

    @abstractmethod
    def test_samples(self, dataset: CocoDataset) -> Samples[Test]:
        """Test images, by their index."""

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
        return self.evaluator_of(self.datasets.scored(subset), gather)

    def evaluator_of(self, dataset: CocoDataset, gather: Gather | None = None, **changes: Any) -> CocoEvaluator:
        """An evaluator of any data set with these labels; `changes` are other settings than the configuration's."""
        settings: dict[str, Any] = {
            "tasks": self.tasks,
            "max_detections": self.config.TEST.DETECTIONS_PER_IMAGE,
            "bootstrap": self.config.TEST.BOOTSTRAP,
            "evaluator": self.config.TEST.EVALUATOR,
            "to_results": self.to_results,
        }
        return CocoEvaluator(dataset, gather=gather, **{**settings, **changes})


class NativeEngine(DatasetEngine[TrainSample, TestSample, Predicted]):
    """COCO files in, batches out.

    Raises:
        ConfigError: a dataset is not registered, NUM_CLASSES is not what the annotations have, or there is nothing
            to find in the images of TEST.SUBSET.
        DatasetError: an annotation file is wrong.
    """

    def __init__(self, config: Config):
        super().__init__(config, load_datasets(config, partial(load_registered, config), inspect_images=True))
        check_num_classes(config, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", self.datasets.train, may_be_0=True)
        if (paste := config.INPUT.COPY_PASTE).ENABLED:
            self.most_instances += min(paste.MAX_INSTANCES or self.most_instances, self.most_instances)

    def train_samples(self) -> TrainDataset:
        config, paste = self.config, self.config.INPUT.COPY_PASTE
        positions, first = config.INPUT.START.ITERS * config.SOLVER.IMS_PER_BATCH, config.INPUT.first
        return TrainDataset(
            self.datasets.train,
            image_size=config.INPUT.IMAGE_SIZE,
            min_scale=config.INPUT.MIN_SCALE,
            max_scale=config.INPUT.MAX_SCALE,
            flip=config.INPUT.RANDOM_FLIP,
            seed=config.SEED,
            filter_empty=config.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            color_jitter=config.INPUT.COLOR_AUG_SSD,
            copy_paste=CopyPaste(paste.PROB, paste.MAX_INSTANCES) if paste.ENABLED else None,
            start=Start(positions, first.IMAGE_SIZE, first.MIN_SCALE, first.MAX_SCALE),
        )

    def test_samples(self, dataset: CocoDataset) -> TestDataset:
        settings = self.config.INPUT
        return TestDataset(dataset, min_size=settings.MIN_SIZE_TEST, max_size=settings.MAX_SIZE_TEST)

    def learner(self) -> MaskFormerLearner:
        network = build_network(self.config, self.categories)
        return MaskFormerLearner(self.config, network, self.summary.class_counts)


def load_datasets(config: Config, load: Callable[[str], CocoDataset], *, inspect_images: bool = False) -> Datasets:
    """Read the datasets of the configuration, each by `load`; the summary is of the image files too on demand.

    Raises:
        ConfigError: none is named, or there is nothing to find in the images of TEST.SUBSET.
        DatasetError: their labels differ.
    """
    files = tuple(load(name) for name in config.DATASETS.TRAIN)
    train = _merged(files)
    if not config.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name the dataset of DATASETS.REGISTER that scores the training.")
    test = load(config.DATASETS.TEST[0])
    check_same_labels(train, test)
    subset = _subset_of(test, config.TEST.SUBSET, config.SEED)
    filter_empty = config.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    summary = summarize_all(files, test, filter_empty=filter_empty, inspect_images=inspect_images)
    return Datasets(train, test, subset, summary)


def load_registered(config: Config, name: str) -> CocoDataset:
    """Read and check the dataset of DATASETS.REGISTER. Raises ConfigError if it is not there, and DatasetError."""
    entry = config.dataset(name)
    heads = config.DATASETS.SUBCATEGORIES
    tell = name in config.DATASETS.TRAIN and not isinstance(config, AnyModelConfig)  # which can have no head
    return load_coco(name, Path(entry.annotations), Path(entry.images), heads, tell_unused=tell)


def _merged(datasets: Sequence[CocoDataset]) -> CocoDataset:
    """Several training sets as one. Raises ConfigError if there is none, and DatasetError if their labels differ."""
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


def _subset_of(dataset: CocoDataset, size: int, seed: int) -> CocoDataset:
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
    """Raise ConfigError where a number of classes is not that of the annotations; with `may_be_0` it may be 0."""
    given, found = config.value(key), len(dataset.categories.names)
    if given == found or (may_be_0 and given == 0):
        return
    instead = ", or to 0 to take it from the annotations" if may_be_0 else ""
    raise ConfigError(
        f"{key} = {given}, but {dataset.annotations_file} has {found} categories. Set it to {found}{instead}."
    )


def batch_loader(config: Config, samples: Samples[Sample], batches: Iterable[list[Any]]) -> Iterable[list[Sample]]:
    """Batches of indices as lists of samples, made in DATALOADER.NUM_WORKERS processes, or in this one."""
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
