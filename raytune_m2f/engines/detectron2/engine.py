"""The engines of `ENGINE: detectron2`: datasets of its catalogs, through its mappers, for our network or any other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from raytune_m2f.config import Config
from raytune_m2f.config.paths import import_modules
from raytune_m2f.data import BatchStream, CocoDataset, TestSample, TrainSample, load_coco
from raytune_m2f.data.dataset import Ticket
from raytune_m2f.engines.base import Prediction, Test, Train
from raytune_m2f.engines.datasets import DatasetEngine, check_num_classes, load_datasets, load_registered
from raytune_m2f.engines.detectron2.catalog import (
    Entry,
    MappedTest,
    MappedTraining,
    Mapper,
    categories_of,
    dataset_of,
    entries_of,
    sampled_batches,
    test_sample,
)
from raytune_m2f.engines.detectron2.cfg import cfg_of, load_library, one_config_error
from raytune_m2f.engines.detectron2.learner import AnyModelLearner
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.evaluation.evaluator import Predicted, Result
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network

NUM_CLASSES = {"GeneralizedRCNN": "ROI_HEADS", "RetinaNet": "RETINANET", "FCOS": "RETINANET"}
"""Sections whose NUM_CLASSES tells a network of detectron2's the number of classes, which it never checks."""


def _as_mapped(mapped: Entry, _: object) -> Entry:
    return mapped


class MappedEngine(DatasetEngine[Train, Test, Prediction]):
    """Datasets of detectron2's catalogs, through its mappers.

    Raises:
        MissingDependencyError: detectron2 is not installed.
        ConfigError: a dataset is not registered, the number of classes is not what it has, there is nothing to find in
            the images of TEST.SUBSET, or a mapper cannot be built.
        DatasetError: an annotation is wrong, or there is nothing to learn from.

    Attributes:
        default_mapper: the class in `library` that maps where no module of the user's has a `build_mapper`.
        finish_train: makes a sample of what the mapper gives, and a seed for what is drawn later.
        finish_test: makes a sample of what the mapper gives, and the entry that it was given.
        start: how many positions of the stream have another mapper, the first ones, and that mapper.
    """

    default_mapper: str
    finish_train: Callable[[Any, int], Train]
    finish_test: Callable[[Any, Entry], Test]
    start: tuple[int, Mapper] | None = None

    def __init__(self, config: Config):
        self.library = load_library()
        self._cfg = cfg_of(config)
        entries: dict[str, list[Entry]] = {}
        super().__init__(config, load_datasets(config, partial(self._load, config, entries)))
        # in one buffer, which the processes that load images share
        self._train_entries: Sequence[Entry] = self.library.DatasetFromList(self._trained(entries))
        self._test_entries = _by_id(self.datasets.test, entries[self.datasets.test.name])
        self.check_config()
        self._mappers = {is_train: self._mapper(self._cfg, is_train=is_train) for is_train in (True, False)}

    def _load(self, config: Config, entries: dict[str, list[Entry]], name: str) -> CocoDataset:
        """A dataset, checked; afterwards it is in the catalog, and its entries are in `entries`."""
        if name in config.DATASETS.REGISTER:
            dataset = load_registered(config, name)
            self.library.register_dataset(dataset)
            entries[name] = entries_of(dataset)
            return dataset
        entries[name], metadata = self.library.catalog_entries(name)
        heads = config.DATASETS.SUBCATEGORIES
        if name in config.DATASETS.TEST and metadata.get("evaluator_type") == "coco":  # scored by its json_file
            return load_coco(name, Path(metadata["json_file"]), Path(metadata.get("image_root", ".")), heads)
        return dataset_of(name, entries[name], categories_of(name, metadata, heads))

    def _trained(self, entries: Mapping[str, Sequence[Entry]]) -> list[Entry]:
        """The training images, without those where only crowds are if DATALOADER.FILTER_EMPTY_ANNOTATIONS."""
        names, filtered = self.config.DATASETS.TRAIN, self.config.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        kept = [entry for name in names for entry in entries[name] if not filtered or _has_instance(entry)]
        if not kept:
            raise DatasetError(f"data sets {', '.join(names)}: no image has an instance that is not a crowd")
        return kept

    def _mapper(self, cfg: Any, *, is_train: bool) -> Mapper:
        """That of the user's modules (`build_mapper(cfg, is_train)`), or the engine's own."""
        build, of = getattr(self.library, self.default_mapper), "(INPUT)"
        for module in reversed(import_modules(self.config.DATASETS.IMPORT)):  # the first one counts
            if hasattr(module, "build_mapper"):
                build, of = module.build_mapper, f"of {module.__file__} (build_mapper)"
        with one_config_error(f"the mapper {of}"):
            return cast(Mapper, build(cfg, is_train))

    @abstractmethod
    def check_config(self) -> None:
        """Compare the configuration with the datasets. Raises ConfigError."""

    def train_samples(self) -> MappedTraining:
        return MappedTraining(self._train_entries, self._mappers[True], self.finish_train, self.config.SEED, self.start)

    def test_samples(self, dataset: CocoDataset) -> MappedTest:
        entries = [self._test_entries[record.id] for record in dataset.records]
        return MappedTest(entries, self._mappers[False], self.finish_test)

    def tickets(self, stream: BatchStream) -> Iterable[list[Ticket]]:
        """The batches of the stream with the indices of detectron2's sampler."""
        return sampled_batches(stream, self.library.index_stream(self._cfg, self._train_entries, self.config.SEED))


class CatalogEngine(MappedEngine[TrainSample, TestSample, Predicted]):
    """For our network; samples and predictions are the native engine's."""

    default_mapper = "MultiTaskMapper"
    finish_test = staticmethod(test_sample)

    def __init__(self, config: Config):
        super().__init__(config)
        self.finish_train = partial(self.library.train_sample, heads=tuple(self.categories.sizes))
        if config.INPUT.START.ITERS:
            cfg = cfg_of(config.model_copy(update={"INPUT": config.INPUT.first}))
            positions = config.INPUT.START.ITERS * config.SOLVER.IMS_PER_BATCH
            self.start = positions, self._mapper(cfg, is_train=True)

    def check_config(self) -> None:
        check_num_classes(self.config, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", self.datasets.train, may_be_0=True)

    def learner(self) -> MaskFormerLearner:
        network = build_network(self.config, self.categories)
        return MaskFormerLearner(self.config, network, self.summary.class_counts)


class AnyModelEngine(MappedEngine[Entry, Entry, Any]):
    """For any network of detectron2's; samples are what its mapper gives, predictions its Instances."""

    default_mapper = "DatasetMapper"
    finish_train = finish_test = staticmethod(_as_mapped)

    def __init__(self, config: Config):
        super().__init__(config)
        self.tasks = ("segm", "bbox") if config.value("MODEL.MASK_ON") else ("bbox",)
        self.to_results = partial(_any_results, self.library.instances_to_coco_json)

    def check_config(self) -> None:
        config, train = self.config, self.datasets.train
        if section := NUM_CLASSES.get(config.MODEL.META_ARCHITECTURE):
            check_num_classes(config, f"MODEL.{section}.NUM_CLASSES", train, may_be_0=False)
        polygons = config.value("MODEL.MASK_ON") and config.value("INPUT.MASK_FORMAT") == "polygon"
        if polygons and any(isinstance(a.segmentation, dict) for r in train.records for a in r.instances):
            raise ConfigError(
                f"INPUT.MASK_FORMAT = 'polygon', but {train.annotations_file} has masks as run lengths: set it to "
                "bitmask."
            )

    def learner(self) -> AnyModelLearner:
        return AnyModelLearner(self.config)


def _has_instance(entry: Entry) -> bool:
    return any(not annotation.get("iscrowd", 0) for annotation in entry["annotations"])


def _by_id(dataset: CocoDataset, entries: Sequence[Entry]) -> dict[int, Entry]:
    """The entries of a test set by their image id. Raises DatasetError if these are not the dataset's."""
    by_id = {entry["image_id"]: entry for entry in entries}
    if by_id.keys() != {record.id for record in dataset.records}:
        raise DatasetError(
            f"data set {dataset.name!r}: the catalog has other images than its json_file, {dataset.annotations_file}: "
            "remove json_file from its metadata to score what the catalog has."
        )
    return by_id


def _any_results(
    to_json: Callable[[Any, int], list[Result]], dataset: CocoDataset, sample: Entry, found: Any
) -> tuple[int, list[Result]]:
    """`ToResults` of detectron2's Instances, whose classes are numbered from 0."""
    ids, image_id = dataset.categories.ids, sample["image_id"]
    results = to_json(found, image_id)
    if (most := max((result["category_id"] for result in results), default=0)) >= len(ids):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE: the network predicts the class {most}, but {dataset.annotations_file} has "
            f"{len(ids)}, from 0 to {len(ids) - 1}: set the network's number of classes to {len(ids)}."
        )
    return image_id, [{**result, "category_id": ids[result["category_id"]]} for result in results]
