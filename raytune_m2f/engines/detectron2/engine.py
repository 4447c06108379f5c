"""The engine of detectron2: catalogs in, batches out. All that is detectron2's comes from `engines.detectron2`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from raytune_m2f.config import Config
from raytune_m2f.config.any_model import building, cfg_node, detectron2_engine
from raytune_m2f.config.paths import import_modules
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import BatchStream, CocoDataset, TestSample, load_coco, shard
from raytune_m2f.engines.base import Engine
from raytune_m2f.engines.datasets import batch_loader, check_num_classes, load_datasets, load_registered
from raytune_m2f.engines.detectron2.catalog import categories_of, dataset_of
from raytune_m2f.engines.detectron2.evaluator import CatalogEvaluator
from raytune_m2f.engines.detectron2.learner import AnyLearner
from raytune_m2f.engines.detectron2.mapped import Entry, MappedDataset, MappedTestDataset, Mapper, SampledBatches
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.evaluation import Evaluator, Gather
from raytune_m2f.evaluation.results import Result
from raytune_m2f.learner.base import Learner
from raytune_m2f.learner.build import build_network
from raytune_m2f.learner.mask_former import MaskFormerLearner

NUM_CLASSES = {
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
    "FCOS": "MODEL.RETINANET.NUM_CLASSES",
}
"""Where networks of detectron2's are told the number of classes, which it never checks."""


class CatalogEngine(Engine):
    """Datasets of detectron2's catalogs, through its mappers, for our network or any of detectron2's.

    For our network samples are the native engine's; for another, what its mapper gives, and predictions are Instances.

    Raises:
        MissingDependencyError: detectron2 is not installed.
        ConfigError: a dataset is not registered, the number of classes is not what it has, there is nothing to find in
            the images of TEST.SUBSET, or a mapper cannot be built.
        DatasetError: an annotation is wrong.
    """

    def __init__(self, config: Config):
        self.config = config
        self._detectron2 = detectron2_engine()
        self._modules = import_modules(config.DATASETS.IMPORT)
        self._cfg = cfg_node(config)
        self._any = isinstance(config, AnyModelConfig)
        self._test_entries: dict[int, Entry] = {}
        self.datasets = load_datasets(config, self._load)
        self.categories = self.datasets.train.categories
        self.most_instances = self.datasets.most_instances
        self.summary = self.datasets.summary
        self._check()
        self._mappers = {is_train: self._mapper(is_train=is_train) for is_train in (True, False)}

    def _load(self, name: str) -> CocoDataset:
        """A dataset, checked; afterwards it is in the catalog."""
        config = self.config
        if name in config.DATASETS.REGISTER:
            dataset = load_registered(config, name)
            self._detectron2.register_dataset(dataset)
        entries, metadata = self._detectron2.catalog_entries(name)
        heads = config.DATASETS.SUBCATEGORIES
        if name not in config.DATASETS.REGISTER:
            if name in config.DATASETS.TEST and metadata.get("evaluator_type") == "coco":  # scored by its json_file
                images = Path(metadata.get("image_root", "."))
                dataset = load_coco(name, Path(metadata["json_file"]), images, heads)
            else:
                dataset = dataset_of(name, entries, categories_of(name, metadata, heads))
        if name in config.DATASETS.TEST:
            self._test_entries = {entry["image_id"]: entry for entry in entries}
            if self._test_entries.keys() != {record.id for record in dataset.records}:
                raise DatasetError(
                    f"data set {name!r}: the catalog has other images than its json_file, {dataset.annotations_file}: "
                    "remove json_file from its metadata to score what the catalog has."
                )
        return dataset

    def _check(self) -> None:
        config, train = self.config, self.datasets.train
        if not self._any:
            check_num_classes(config, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", train, may_be_0=True)
            return
        if key := NUM_CLASSES.get(config.MODEL.META_ARCHITECTURE):
            check_num_classes(config, key, train, may_be_0=False)
        polygons = config.value("MODEL.MASK_ON") and config.value("INPUT.MASK_FORMAT") == "polygon"
        if polygons and any(isinstance(a.segmentation, dict) for r in train.records for a in r.instances):
            raise ConfigError(
                f"INPUT.MASK_FORMAT = 'polygon', but {train.annotations_file} has masks as run lengths: set it to "
                "bitmask."
            )

    def _mapper(self, *, is_train: bool) -> Mapper:
        """That of the user's modules (`build_mapper(cfg, is_train)`), or detectron2's, or ours for our network."""
        for module in self._modules:
            if hasattr(module, "build_mapper"):
                with building(f"the mapper of {module.__file__} (build_mapper)"):
                    own: Mapper = module.build_mapper(self._cfg, is_train)
                return own
        kind = self._detectron2.DatasetMapper if self._any else self._detectron2.MultiTaskMapper
        with building("the mapper (INPUT)"):
            mapper: Mapper = kind(self._cfg, is_train)
        return mapper

    def train_batches(self, *, rank: int, world_size: int, start_iteration: int) -> Iterator[list[Any]]:
        config = self.config
        entries = self._detectron2.training_entries(
            config.DATASETS.TRAIN, filter_empty=config.DATALOADER.FILTER_EMPTY_ANNOTATIONS
        )
        finish = _as_it_is if self._any else partial(self._detectron2.train_sample, heads=tuple(self.categories.sizes))
        dataset = MappedDataset(entries, self._mappers[True], finish, config.SEED)
        stream = BatchStream(
            size=len(dataset),
            seed=config.SEED,
            global_batch=config.SOLVER.IMS_PER_BATCH,
            rank=rank,
            world_size=world_size,
            start_iteration=start_iteration,
            max_iterations=config.SOLVER.MAX_ITER,
        )
        batches = SampledBatches(stream, partial(self._detectron2.index_stream, self._cfg, entries, config.SEED))
        return iter(batch_loader(config, dataset, batch_sampler=batches))

    def test_batches(self, *, rank: int, world_size: int, subset: bool = False) -> Iterable[list[Any]]:
        config = self.config
        wanted = [self._test_entries[record.id] for record in self.datasets.scored(subset).records]
        finish = _as_it_is if self._any else _test_sample
        dataset = MappedTestDataset(wanted, self._mappers[False], finish)
        own = Subset(dataset, shard(len(dataset), rank, world_size))
        return batch_loader(config, own, batch_size=config.TEST.IMS_PER_BATCH)

    def evaluator(self, gather: Gather | None = None, *, subset: bool = False) -> Evaluator:
        config, dataset = self.config, self.datasets.scored(subset)
        boxes_only = self._any and not config.value("MODEL.MASK_ON")
        tasks = ("bbox",) if boxes_only else ("segm", "bbox") if self._any else ("segm",)
        most = config.TEST.DETECTIONS_PER_IMAGE
        return CatalogEvaluator(
            dataset,
            self._detectron2.CocoScorer(dataset, tasks=tasks, max_detections=most),
            self._any_results if self._any else self._our_results,
            tasks=tasks,
            max_detections=most,
            bootstrap=config.TEST.BOOTSTRAP,
            gather=gather,
        )

    def _our_results(self, sample: TestSample, instances: Any) -> tuple[int, list[Result]]:
        size = tuple(instances.masks.shape[-2:])
        if size != (sample.height, sample.width):
            raise ValueError(f"predictions for {sample.file} must have masks of its own size, but got {size}")
        heads = tuple(self.categories.sizes)
        found = self._detectron2.theirs(instances)
        return sample.image_id, self._detectron2.coco_results(found, sample.image_id, heads)

    def _any_results(self, sample: Entry, found: Any) -> tuple[int, list[Result]]:
        return sample["image_id"], self._detectron2.coco_results(found, sample["image_id"])

    def learner(self) -> Learner:
        if self._any:
            return AnyLearner(self.config)
        return MaskFormerLearner(self.config, build_network(self.config, self.categories))


def _as_it_is(mapped: Any, _: object) -> Any:
    return mapped


def _test_sample(mapped: Entry, entry: Entry) -> TestSample:
    return TestSample(
        image=mapped["image"],
        image_id=entry["image_id"],
        height=entry["height"],
        width=entry["width"],
        file=Path(entry["file_name"]),
    )
