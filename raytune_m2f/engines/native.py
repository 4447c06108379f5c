"""The default engine: torchvision's transforms and pycocotools; installs from PyPI alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch.utils.data import Subset

from raytune_m2f.config import Config
from raytune_m2f.data import (
    BatchStream,
    TestDataset,
    TestSample,
    TrainDataset,
    TrainSample,
    shard,
)
from raytune_m2f.engines.base import Engine
from raytune_m2f.engines.datasets import batch_loader, check_num_classes, load_datasets, load_registered
from raytune_m2f.evaluation import CocoEvaluator, Evaluator, Gather
from raytune_m2f.learner.base import Learner
from raytune_m2f.learner.build import build_network
from raytune_m2f.learner.mask_former import MaskFormerLearner


class NativeEngine(Engine):
    """COCO files in, batches out.

    Raises:
        ConfigError: a dataset is not registered, NUM_CLASSES is not what the annotations have, or there is nothing
            to find in the images of TEST.SUBSET.
        DatasetError: an annotation file is wrong.
    """

    def __init__(self, config: Config):
        self.config = config
        self.datasets = load_datasets(config, lambda name: load_registered(config, name), look=True)
        self.categories = self.datasets.train.categories
        self.most_instances = self.datasets.most_instances
        self.summary = self.datasets.summary
        check_num_classes(config, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", self.datasets.train, may_be_0=True)

    def train_batches(self, *, rank: int, world_size: int, start_iteration: int) -> Iterator[list[TrainSample]]:
        config = self.config
        dataset = TrainDataset(
            self.datasets.train,
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
        return iter(batch_loader(config, dataset, batch_sampler=stream))

    def test_batches(self, *, rank: int, world_size: int, subset: bool = False) -> Iterable[list[TestSample]]:
        config = self.config
        dataset = TestDataset(
            self.datasets.scored(subset), min_size=config.INPUT.MIN_SIZE_TEST, max_size=config.INPUT.MAX_SIZE_TEST
        )
        own = Subset(dataset, shard(len(dataset), rank, world_size))
        return batch_loader(config, own, batch_size=config.TEST.IMS_PER_BATCH)

    def evaluator(self, gather: Gather | None = None, *, subset: bool = False) -> Evaluator:
        settings = self.config.TEST
        return CocoEvaluator(
            self.datasets.scored(subset),
            max_detections=settings.DETECTIONS_PER_IMAGE,
            bootstrap=settings.BOOTSTRAP,
            gather=gather,
        )

    def learner(self) -> Learner:
        return MaskFormerLearner(self.config, build_network(self.config, self.categories))
