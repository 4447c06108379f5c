"""The default engine: torchvision's transforms and pycocotools; installs from PyPI alone."""

from __future__ import annotations

from functools import partial

from raytune_m2f.config import Config
from raytune_m2f.data import CocoDataset, TestDataset, TestSample, TrainDataset, TrainSample
from raytune_m2f.engines.datasets import DatasetEngine, check_num_classes, load_datasets, load_registered
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network
from raytune_m2f.model import Instances


class NativeEngine(DatasetEngine[TrainSample, TestSample, Instances]):
    """COCO files in, batches out.

    Raises:
        ConfigError: a dataset is not registered, NUM_CLASSES is not what the annotations have, or there is nothing
            to find in the images of TEST.SUBSET.
        DatasetError: an annotation file is wrong.
    """

    def __init__(self, config: Config):
        super().__init__(config, load_datasets(config, partial(load_registered, config), look=True))
        check_num_classes(config, "MODEL.SEM_SEG_HEAD.NUM_CLASSES", self.datasets.train, may_be_0=True)

    def train_samples(self) -> TrainDataset:
        config = self.config
        return TrainDataset(
            self.datasets.train,
            image_size=config.INPUT.IMAGE_SIZE,
            min_scale=config.INPUT.MIN_SCALE,
            max_scale=config.INPUT.MAX_SCALE,
            flip=config.INPUT.RANDOM_FLIP,
            seed=config.SEED,
            filter_empty=config.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        )

    def test_samples(self, dataset: CocoDataset) -> TestDataset:
        settings = self.config.INPUT
        return TestDataset(dataset, min_size=settings.MIN_SIZE_TEST, max_size=settings.MAX_SIZE_TEST)

    def learner(self) -> MaskFormerLearner:
        return MaskFormerLearner(self.config, build_network(self.config, self.categories))
