"""What is taken from detectron2: its catalogs, mappers, samplers, registries and solvers.

No other module imports detectron2. MultiTaskMaskFormer is our network in detectron2's registry, for a user's own
`train_net.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetFromList, DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, BoxMode, Instances, PolygonMasks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

from raytune_m2f import model as ours
from raytune_m2f.config import Config
from raytune_m2f.config.load import config_from_cfg
from raytune_m2f.data import CocoDataset, TrainSample, load_coco, resize_shortest_edge
from raytune_m2f.data.augment import ColorJitter
from raytune_m2f.data.masks import parse_segmentation, to_rle
from raytune_m2f.engines.detectron2.catalog import Entry, categories_of, entries_of, metadata_of, test_sample
from raytune_m2f.engines.detectron2.cfg import set_values
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_network
from raytune_m2f.learner.prediction import predict_whole

__all__ = [
    "DatasetFromList",
    "DatasetMapper",
    "EventStorage",
    "build_lr_scheduler",
    "build_model",
    "build_optimizer",
    "get_cfg",
    "instances_to_coco_json",
]


def add_config(cfg: Any) -> None:
    """Give detectron2's `cfg` all our keys, with our defaults; to be called before a file is merged into it."""
    set_values(cfg, Config().to_dict())
    cfg.DATASETS.REGISTER = type(cfg)(new_allowed=True)


def register_datasets(cfg: Any) -> None:
    """Put the datasets of DATASETS.REGISTER into detectron2's catalogs by `register_coco`."""
    for name, files in cfg.DATASETS.REGISTER.items():
        register_coco(name, files["annotations"], files["images"], cfg.DATASETS.SUBCATEGORIES)


def register_coco(name: str, annotations: str | Path, images: str | Path, heads: tuple[str, ...] = ()) -> None:
    """`register_coco_instances` with subcategories (`heads`: integer fields of annotations), checked.

    Raises:
        DatasetError: the annotation file is wrong.
    """
    register_dataset(load_coco(name, Path(annotations), Path(images), tuple(heads)))


def register_dataset(dataset: CocoDataset) -> None:
    """Put a dataset into the catalogs under its name; one of this name that is there already is replaced."""
    if dataset.name in DatasetCatalog:
        DatasetCatalog.remove(dataset.name)
    MetadataCatalog.pop(dataset.name, None)
    DatasetCatalog.register(dataset.name, lambda: entries_of(dataset))
    MetadataCatalog.get(dataset.name).set(**metadata_of(dataset))


def catalog_entries(name: str) -> tuple[list[Entry], dict[str, Any]]:
    """A dataset of the catalogs, with boxes as XYWH, and its metadata. Raises ConfigError if it is not there."""
    if name not in DatasetCatalog:
        raise ConfigError(
            f"DATASETS: the data set {name!r} is neither in DATASETS.REGISTER nor in detectron2's catalog. Name its "
            "files there, or the module that registers it in DATASETS.IMPORT."
        )
    try:
        entries = DatasetCatalog.get(name)
        entries = [{**e, "annotations": [_xywh(a) for a in e["annotations"]]} for e in entries]
    except Exception as error:  # of whoever registered it: files that are missing, a box without its bbox_mode
        raise DatasetError(
            f"data set {name!r} of detectron2's catalog cannot be read: {type(error).__name__}: {error}. Each image "
            "needs annotations, be it an empty list, and each of them bbox and bbox_mode."
        ) from error
    return entries, MetadataCatalog.get(name).as_dict()


def _xywh(annotation: Entry) -> Entry:
    box = BoxMode.convert(list(annotation["bbox"]), BoxMode(annotation["bbox_mode"]), BoxMode.XYWH_ABS)
    return {**annotation, "bbox": box, "bbox_mode": BoxMode.XYWH_ABS}


def index_stream(cfg: Any, entries: Sequence[Entry], seed: int) -> Iterator[int]:
    """The indices that detectron2's sampler gives to all workers together, without end."""
    name = cfg.DATALOADER.get("SAMPLER_TRAIN", "TrainingSampler")
    if name == "TrainingSampler":
        sampler = TrainingSampler(len(entries), seed=seed)
    else:  # the configuration allows no third
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            entries, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
        )
        sampler = RepeatFactorTrainingSampler(factors, seed=seed)
    return cast("Iterator[int]", sampler._infinite_indices())  # its __iter__ would give this worker's only


class ColorAugmentation(T.Augmentation):  # type: ignore[misc]
    """The native engine's colour jitter, of numpy's global generator, as all of detectron2's augmentations."""

    def get_transform(self, image: Any) -> Any:
        colors = ColorJitter.draw(np.random.default_rng(np.random.randint(2**31)))

        def changed(pixels: Any) -> Any:
            return colors(torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)).permute(1, 2, 0).numpy()

        return T.ColorTransform(changed)


class MultiTaskMapper:
    """Mask2Former's augmentation by detectron2's transforms; `gt_<head>` for every subcategory head.

    A mask is rasterised at its image's size, then transformed, whether it is polygons or run lengths.

    Args:
        cfg: with our keys (`add_config`).
    """

    def __init__(self, cfg: Any, is_train: bool = True):
        self.is_train = is_train
        self.heads = tuple(cfg.DATASETS.SUBCATEGORIES)
        self.test_sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        side, flip = cfg.INPUT.IMAGE_SIZE, cfg.INPUT.RANDOM_FLIP
        flips = [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")] if flip != "none" else []
        scale = T.ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, target_height=side, target_width=side)
        colors = [ColorAugmentation()] if cfg.INPUT.COLOR_AUG_SSD else []  # before the crop pads
        self.augmentations = T.AugmentationList([*flips, scale, *colors, T.FixedSizeCrop(crop_size=(side, side))])

    def __call__(self, entry: Entry) -> Entry:
        image = utils.read_image(entry["file_name"], format="RGB")
        utils.check_image_size(entry, image)
        others = {key: value for key, value in entry.items() if key != "annotations"}
        if not self.is_train:
            # detectron2's own resize rounds some pixels otherwise; so the network sees the same in both engines
            return {**others, "image": resize_shortest_edge(image, *self.test_sizes)}
        size, given = image.shape[:2], T.AugInput(image)
        transforms = self.augmentations(given)
        pixels = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        kept = [a for a in entry.get("annotations", ()) if not a.get("iscrowd", 0)]
        instances = self._instances(kept, transforms, size, given.image.shape[:2])
        return {**others, "image": pixels, "instances": instances}

    def _instances(
        self, annotations: Sequence[Entry], transforms: Any, size: tuple[int, int], new_size: tuple[int, int]
    ) -> Any:
        masks = torch.zeros(len(annotations), *new_size, dtype=torch.bool)
        for mask, annotation in zip(masks, annotations, strict=True):
            shape = parse_segmentation(annotation["segmentation"], *size)
            if shape is not None:
                whole = utils.mask_util.decode(to_rle(shape, *size))
                mask[:] = torch.from_numpy(transforms.apply_segmentation(whole).copy())
        instances = Instances(new_size)
        instances.gt_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        instances.gt_masks = BitMasks(masks)
        for head in self.heads:
            labels = [a.get(head, ours.UNKNOWN) for a in annotations]
            instances.set(f"gt_{head}", torch.tensor(labels, dtype=torch.int64))
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        return instances[instances.gt_masks.nonempty()]


def train_sample(mapped: Entry, seed: int, heads: Sequence[str]) -> TrainSample:
    """What a mapper made, as our network learns from it; a head without its field is unknown."""
    instances = mapped["instances"]
    height, width = instances.image_size
    count = len(instances)
    masks = instances.gt_masks if instances.has("gt_masks") else torch.zeros(0, height, width, dtype=torch.bool)
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    unknown = torch.full((count,), ours.UNKNOWN)
    fields = {head: instances.get(f"gt_{head}") if instances.has(f"gt_{head}") else unknown for head in heads}
    target = ours.Target(instances.gt_classes, getattr(masks, "tensor", masks).bool(), fields)
    return TrainSample(mapped["image"], target, seed)


def detectron2_instances(instances: ours.Instances) -> Any:
    """As detectron2's: pred_classes, scores, pred_masks, pred_boxes; of each head pred_<head> and <head>_probs."""
    found = Instances(tuple(instances.masks.shape[1:]))
    found.pred_masks, found.pred_classes, found.scores = instances.masks, instances.labels, instances.scores
    found.pred_boxes = BitMasks(instances.masks).get_bounding_boxes()
    for head, labels in instances.sublabels.items():
        found.set(f"pred_{head}", labels)
        found.set(f"{head}_probs", instances.subprobs[head])
    return found


@META_ARCH_REGISTRY.register()
class MultiTaskMaskFormer(ours.MultiTaskMaskFormer):
    """Our network with detectron2's inputs and outputs, for `build_model(cfg)`; its state dict is the same.

    Training gives the losses, evaluation {"instances": `detectron2_instances`} for each image. Images are RGB.
    """

    def __init__(self, cfg: Any):
        config, names = config_from_cfg(cfg), (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        if not names:
            raise ConfigError("DATASETS.TRAIN is empty: name the data set whose classes the network learns.")
        metadata = MetadataCatalog.get(names[0]).as_dict()
        bare = build_network(config, categories_of(names[0], metadata, cfg.DATASETS.SUBCATEGORIES))
        super().__init__(
            bare.backbone,
            bare.sem_seg_head,
            pixel_mean=config.MODEL.PIXEL_MEAN,
            pixel_std=config.MODEL.PIXEL_STD,
            size_divisibility=config.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
        )
        self.learner = MaskFormerLearner(config, self)

    def forward(self, batched_inputs: Sequence[Any]) -> Any:
        """Of tensors, the network's own outputs, as `predict` asks for them."""
        if not isinstance(batched_inputs[0], Mapping):
            return super().forward(batched_inputs)
        return self._losses(batched_inputs) if self.training else self._instances(batched_inputs)

    def _losses(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        seeds = torch.randint(2**62, (len(inputs),)).tolist()
        samples = [train_sample(x, seed, self.heads) for x, seed in zip(inputs, seeds, strict=True)]
        counts = self.learner.count(samples)
        if comm.get_world_size() > 1:  # gradients are averaged, so the mean over workers makes shares of them
            counts = counts.to(self.pixel_mean.device)
            torch.distributed.all_reduce(counts)
            counts /= comm.get_world_size()
        _, losses = self.learner.losses(super().forward, samples, counts, nullcontext(), ())
        return losses

    def _instances(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        samples = [test_sample(entry, entry) for entry in inputs]
        sizes = [(sample.height, sample.width) for sample in samples]
        found = predict_whole(self, self.learner.config, [sample.image for sample in samples], sizes)
        return [{"instances": detectron2_instances(instances)} for instances in found]


def resized_for_test(cfg: Any, image: Any) -> Any:
    """An (H, W, 3) image as detectron2's own mapper resizes it."""
    return T.apply_augmentations(utils.build_augmentation(cfg, is_train=False), image)[0]


def align(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a file's tensors those that fit, under the network's names, as detectron2 matches them."""
    caffe2 = any(name.endswith(("_w", "_b")) for name in state)
    matched = align_and_update_state_dicts(dict(own), dict(state), c2_conversion=caffe2)
    return {name: value for name, value in matched.items() if name in own and value.shape == own[name].shape}
