"""What is taken from detectron2: its catalogs, mappers, samplers, registries, solvers and COCOEvaluator.

No other module imports detectron2; `CatalogEngine` makes an engine of it. MultiTaskMaskFormer is our network in
detectron2's registry, for a user's own `train_net.py`.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from detectron2 import data
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from detectron2.structures import BitMasks, BoxMode, Instances, PolygonMasks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor

from raytune_m2f import model as ours
from raytune_m2f.config import Config
from raytune_m2f.config.any_model import assign
from raytune_m2f.config.load import config_of
from raytune_m2f.data import Categories, CocoDataset, TrainSample, resize_shortest_edge
from raytune_m2f.data.masks import parse_segmentation, to_rle
from raytune_m2f.engines.detectron2.catalog import categories_of, dicts_of, metadata_of
from raytune_m2f.engines.detectron2.evaluator import truth_of
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.evaluation.coco import image_numbers
from raytune_m2f.evaluation.results import Result
from raytune_m2f.learner.build import build_criterion, build_network

__all__ = ["DatasetMapper", "EventStorage", "build_lr_scheduler", "build_model", "build_optimizer", "get_cfg"]

Entry = dict[str, Any]


def add_config(cfg: Any) -> None:
    """Give detectron2's `cfg` all our keys, with our defaults; to be called before a file is merged into it."""
    assign(cfg, Config().to_dict())
    cfg.DATASETS.REGISTER = type(cfg)(new_allowed=True)


def register_dataset(dataset: CocoDataset) -> None:
    """Put a dataset into the catalogs under its name; one of this name that is there already is replaced."""
    if dataset.name in DatasetCatalog:
        DatasetCatalog.remove(dataset.name)
    MetadataCatalog.pop(dataset.name, None)
    DatasetCatalog.register(dataset.name, lambda: dicts_of(dataset))
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


def training_entries(names: Sequence[str], *, filter_empty: bool) -> Any:
    """What detectron2 trains on, in one buffer that is shared by the processes that load images.

    Raises:
        DatasetError: nothing is left.
    """
    try:
        return data.DatasetFromList(data.get_detection_dataset_dicts(list(names), filter_empty=filter_empty))
    except AssertionError as error:
        raise DatasetError(f"data sets {', '.join(names)}: {error}") from error


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
    stream: Iterator[int] = sampler._infinite_indices()  # its __iter__ would give this worker's only
    return stream


class MultiTaskMapper:
    """Mask2Former's augmentation by detectron2's transforms; `gt_<head>` for every subcategory head.

    A mask is rasterised at its image's size, then transformed: polygons and run lengths go one way.

    Args:
        cfg: with our keys (`add_config`).
    """

    def __init__(self, cfg: Any, is_train: bool = True):
        self.is_train = is_train
        self.heads = tuple(cfg.DATASETS.SUBCATEGORIES)
        self.test_sizes = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
        self.augmentations = T.AugmentationList(_jitter(cfg.INPUT))

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


def _jitter(settings: Any) -> list[Any]:
    side, flip = settings.IMAGE_SIZE, settings.RANDOM_FLIP
    flips = [T.RandomFlip(horizontal=flip == "horizontal", vertical=flip == "vertical")] if flip != "none" else []
    scale = T.ResizeScale(settings.MIN_SCALE, settings.MAX_SCALE, target_height=side, target_width=side)
    return [*flips, scale, T.FixedSizeCrop(crop_size=(side, side))]


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


def theirs(instances: ours.Instances) -> Any:
    """As detectron2's: pred_classes, scores, pred_masks, pred_boxes; of each head pred_<head> and <head>_probs."""
    found = Instances(tuple(instances.masks.shape[1:]))
    found.pred_masks, found.pred_classes, found.scores = instances.masks, instances.labels, instances.scores
    found.pred_boxes = BitMasks(instances.masks).get_bounding_boxes()
    for head, labels in instances.sublabels.items():
        found.set(f"pred_{head}", labels)
        found.set(f"{head}_probs", instances.subprobs[head])
    return found


def coco_results(found: Any, image_id: int, heads: Sequence[str] = ()) -> list[Result]:
    """detectron2's Instances as COCO results, with 0-based categories; masks become run lengths."""
    results: list[Result] = instances_to_coco_json(found, image_id)
    for head in heads:
        for result, label in zip(results, found.get(f"pred_{head}").tolist(), strict=True):
            result[head] = label
    return results


class CocoScorer(COCOEvaluator):  # type: ignore[misc]
    """detectron2's COCOEvaluator of any dataset; it keeps what COCOeval found out, for what detectron2 leaves out."""

    def __init__(self, dataset: CocoDataset, *, tasks: Sequence[str], max_detections: int):
        self.found: dict[str, Any] = {}
        self._numbers = image_numbers(dataset)
        name = f"raytune_m2f: {dataset.name}"
        labels = {number: label for label, number in enumerate(range(1, len(dataset.categories) + 1))}
        with TemporaryDirectory() as folder:
            file = Path(folder) / "truth.json"
            file.write_text(json.dumps(truth_of(dataset)), encoding="utf-8")
            MetadataCatalog.pop(name, None)
            own = {"json_file": str(file), "thing_dataset_id_to_contiguous_id": labels}
            MetadataCatalog.get(name).set(**{**metadata_of(dataset), **own})
            super().__init__(name, tuple(tasks), False, max_dets_per_image=max_detections, use_fast_impl=False)

    def score(self, results: Sequence[Result]) -> dict[str, dict[str, float]]:
        self._predictions = [{"instances": [{**r, "image_id": self._numbers[r["image_id"]]} for r in results]}]
        with contextlib.redirect_stdout(io.StringIO()):
            scores: dict[str, dict[str, float]] = self.evaluate()
        return scores

    def _derive_coco_results(self, coco_eval: Any, iou_type: str, class_names: Any = None) -> Any:
        self.found[iou_type] = coco_eval
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


@META_ARCH_REGISTRY.register()
class MultiTaskMaskFormer(ours.MultiTaskMaskFormer):
    """Our network with detectron2's inputs and outputs, for `build_model(cfg)`; its state dict is the same.

    Training gives the losses, evaluation for each image {"instances": what `theirs` makes}. Images are RGB.
    """

    def __init__(self, cfg: Any):
        config = config_of(cfg)
        bare = build_network(config, _categories(cfg))
        super().__init__(
            bare.backbone,
            bare.sem_seg_head,
            pixel_mean=config.MODEL.PIXEL_MEAN,
            pixel_std=config.MODEL.PIXEL_STD,
            size_divisibility=config.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
        )
        self.settings = config
        self.criterion = build_criterion(config)

    def forward(self, batched_inputs: Sequence[Any]) -> Any:
        """Of tensors, the network's own outputs, as `predict` asks for them."""
        if not isinstance(batched_inputs[0], Mapping):
            return super().forward(batched_inputs)
        return self._losses(batched_inputs) if self.training else self._instances(batched_inputs)

    def _losses(self, inputs: Sequence[Any]) -> dict[str, Tensor]:
        seeds = torch.randint(2**62, (len(inputs),)).tolist()
        samples = [train_sample(x, seed, self.heads) for x, seed in zip(inputs, seeds, strict=True)]
        images, device = [sample.image for sample in samples], self.pixel_mean.device
        counts = ours.count_targets([sample.target for sample in samples], self.num_queries, self.heads).float()
        if comm.get_world_size() > 1:  # gradients are averaged, so the mean over workers makes shares of them
            counts = counts.to(device)
            torch.distributed.all_reduce(counts)
            counts /= comm.get_world_size()
        size = ours.padded_size(images, self.size_divisibility)
        targets = [
            ours.Target(t.labels, ours.pad_masks(t.masks, size), t.sublabels).to(device)
            for t in (sample.target for sample in samples)
        ]
        losses = self.criterion(super().forward(images), targets, ours.RandomPoints(seeds, device), counts)
        return self.criterion.weighted(losses)

    def _instances(self, inputs: Sequence[Any]) -> list[dict[str, Any]]:
        found = self.predict(
            [x["image"] for x in inputs],
            [(x.get("height", x["image"].shape[1]), x.get("width", x["image"].shape[2])) for x in inputs],
            max_instances=self.settings.TEST.DETECTIONS_PER_IMAGE,
            ranking=self.settings.MODEL.MASK_FORMER.TEST.RANKING,
        )
        return [{"instances": theirs(instances)} for instances in found]


def _categories(cfg: Any) -> Categories:
    names = (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
    if not names:
        raise ConfigError("DATASETS.TRAIN is empty: name the data set whose classes the network learns.")
    return categories_of(names[0], MetadataCatalog.get(names[0]).as_dict(), cfg.DATASETS.SUBCATEGORIES)


def resized_for_test(cfg: Any, image: Any) -> Any:
    """An (H, W, 3) image as detectron2's own mapper resizes it."""
    return T.apply_augmentations(utils.build_augmentation(cfg, is_train=False), image)[0]


def align(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of a file's tensors those that fit, under the network's names, as detectron2 matches them."""
    caffe2 = any(name.endswith(("_w", "_b")) for name in state)
    matched = align_and_update_state_dicts(dict(own), dict(state), c2_conversion=caffe2)
    return {name: value for name, value in matched.items() if name in own and value.shape == own[name].shape}
