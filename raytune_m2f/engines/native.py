"""The default engine: torchvision's transforms and pycocotools; installs from PyPI alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from torch.utils.data import DataLoader, Dataset, Subset

from raytune_m2f.config import Config
from raytune_m2f.data import (
    BatchStream,
    CocoDataset,
    TestDataset,
    TestSample,
    TrainDataset,
    TrainSample,
    check_same_labels,
    load_coco,
    shard,
)
from raytune_m2f.data.sampler import generator
from raytune_m2f.engines.base import Engine
from raytune_m2f.errors import ConfigError
from raytune_m2f.evaluation import CocoEvaluator, Evaluator, Gather

T = TypeVar("T")

SUBSET = 2
"""The stream of random numbers that chooses TEST.SUBSET images; `data.sampler` has streams 0 and 1."""


class NativeEngine(Engine):
    """COCO files in, batches out.

    Raises:
        ConfigError: a dataset is not registered, NUM_CLASSES is not what the annotations have, or there is nothing
            to find in the images of TEST.SUBSET.
        DatasetError: an annotation file is wrong.
    """

    def __init__(self, config: Config):
        self.config = config
        self.train = merge([load_registered(config, name) for name in config.DATASETS.TRAIN])
        self.test = load_registered(config, only_test_dataset(config))
        check_same_labels(self.train, self.test)
        self.test_subset = subset_of(self.test, config.TEST.SUBSET, config.SEED)
        self.categories = self.train.categories
        self.most_instances = max((len(record.instances) for record in self.train.records), default=0)
        check_num_classes(config, self.train)

    def train_batches(self, *, rank: int, world_size: int, start_iteration: int) -> Iterator[list[TrainSample]]:
        config = self.config
        dataset = TrainDataset(
            self.train,
            image_size=config.INPUT.IMAGE_SIZE,
            min_scale=config.INPUT.MIN_SCALE,
            max_scale=config.INPUT.MAX_SCALE,
            flip=config.INPUT.RANDOM_FLIP,
            seed=config.SEED,
            filter_empty=config.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        )
        stream = BatchStream(
            size=len(dataset),
            seed=config.SEED,
            global_batch=config.SOLVER.IMS_PER_BATCH,
            rank=rank,
            world_size=world_size,
            start_iteration=start_iteration,
            max_iterations=config.SOLVER.MAX_ITER,
        )
        return iter(self._loader(dataset, batch_sampler=stream))

    def test_batches(self, *, rank: int, world_size: int, subset: bool = False) -> Iterable[list[TestSample]]:
        config = self.config
        test = self.test_subset if subset else self.test
        dataset = TestDataset(test, min_size=config.INPUT.MIN_SIZE_TEST, max_size=config.INPUT.MAX_SIZE_TEST)
        own = Subset(dataset, shard(len(dataset), rank, world_size))
        return self._loader(own, batch_size=config.TEST.IMS_PER_BATCH)

    def evaluator(self, gather: Gather | None = None, *, subset: bool = False) -> Evaluator:
        settings = self.config.TEST
        return CocoEvaluator(
            self.test_subset if subset else self.test,
            max_detections=settings.DETECTIONS_PER_IMAGE,
            bootstrap=settings.BOOTSTRAP,
            gather=gather,
        )

    def _loader(
        self, dataset: Dataset[T], *, batch_sampler: BatchStream | None = None, batch_size: int = 1
    ) -> DataLoader[T]:
        workers = self.config.DATALOADER.NUM_WORKERS
        return DataLoader(
            dataset,
            batch_size=1 if batch_sampler is not None else batch_size,
            batch_sampler=batch_sampler,
            num_workers=workers,
            collate_fn=list,
            # a forked child of a process with running threads (Ray's, torch's) may hang
            multiprocessing_context="forkserver" if workers else None,
        )


def load_registered(config: Config, name: str) -> CocoDataset:
    """Read and check the dataset registered as `name`."""
    entry = config.dataset(name)
    return load_coco(name, Path(entry.annotations), Path(entry.images), config.DATASETS.SUBCATEGORIES)


def only_test_dataset(config: Config) -> str:
    """The one dataset that scores a trial."""
    if not config.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: name the dataset of DATASETS.REGISTER that scores the training.")
    return config.DATASETS.TEST[0]


def merge(datasets: list[CocoDataset]) -> CocoDataset:
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
    if not any(record.instances for record in records):
        raise ConfigError(
            f"TEST.SUBSET = {size} with SEED = {seed} chooses images of {dataset.annotations_file} in which there is "
            "no instance to find. Raise TEST.SUBSET, or set it to 0 for all images."
        )
    return replace(dataset, records=records)


def check_num_classes(config: Config, dataset: CocoDataset) -> None:
    """NUM_CLASSES may be left out (0); given, it must be what the annotations have."""
    given, found = config.MODEL.SEM_SEG_HEAD.NUM_CLASSES, len(dataset.categories.names)
    if given not in (0, found):
        raise ConfigError(
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES = {given}, but {dataset.annotations_file} has {found} categories. "
            f"Set it to {found}, or to 0 to take it from the annotations."
        )
