"""The ground truth in the form of predictions: a perfect detector, to check metrics by and to draw.

Evaluation during training: batches in, metrics out, over any number of workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raytune_m2f.data import Categories, CocoDataset, ImageRecord, TestSample
from raytune_m2f.data.masks import Rle
from raytune_m2f.evaluation.coco import coco_ground_truth
from raytune_m2f.evaluation.results import Result, evaluate_results, instances_to_results
from raytune_m2f.evaluation.subcategories import HeadEvaluation
from raytune_m2f.model import Instances, PackedInstances


def ground_truth_instances(record: ImageRecord, categories: Categories) -> Instances:
    """The annotations of an image, crowds left out, as instances with score 1.

    A subcategory has probability 1; one that is unknown has none for any class.
    """
    annotations = record.instances
    masks = np.zeros((len(annotations), record.height, record.width), dtype=bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[...] = annotation.mask(record.height, record.width)
    return Instances(
        scores=torch.ones(len(annotations)),
        labels=torch.tensor([annotation.label for annotation in annotations], dtype=torch.int64),
        masks=torch.from_numpy(masks),
        queries=torch.arange(len(annotations)),
        subprobs={
            name: _certain([annotation.sublabels[name] for annotation in annotations], len(classes))
            for name, classes in categories.subcategories.items()
        },
    )


def _certain(labels: list[int], classes: int) -> Tensor:
    """(K, classes): one-hot rows; `UNKNOWN` (-1) becomes a row of zeros."""
    return one_hot(torch.tensor(labels, dtype=torch.int64) + 1, classes + 1)[:, 1:].float()


Gather = Callable[[list[Any]], list[list[Any]]]
"""Hands every worker the lists of all workers, in the order of their ranks."""


class Evaluator(Protocol):
    """detectron2's verbs: reset, then process every batch, then evaluate."""

    def reset(self) -> None:
        """Forget every prediction."""

    def process(self, inputs: Sequence[TestSample], outputs: Sequence[Instances]) -> None:
        """Take the predictions of a batch: `outputs[i]` at the original size of image `inputs[i]`."""

    def evaluate(self) -> dict[str, float]:
        """Metrics over the predictions of all workers; every worker calls it and gets the same numbers."""


class CocoEvaluator:
    """`Evaluator` by COCO's segm metrics and each subcategory head's accuracy.

    A prediction is turned into run lengths at once: nothing is kept at full resolution longer than one image. An image
    that comes twice, from one worker or from several (samplers repeat images to even out workers), counts once. Every
    image of the data set counts: one that was never processed is one where nothing was found.

    All workers compute the metrics. One of them could, but the others would only wait for it.

    Args:
        dataset: the ground truth, prepared here once for all evaluations of a run.
        max_detections: detections counted per image and category (`TEST.DETECTIONS_PER_IMAGE`).
        bootstrap: draws for "segm/AP_se" (`TEST.BOOTSTRAP`), 0 for none.
        gather: `torch.distributed.all_gather_object` over the workers as a function; None for one worker.
    """

    def __init__(
        self, dataset: CocoDataset, *, max_detections: int = 100, bootstrap: int = 0, gather: Gather | None = None
    ) -> None:
        self.heads: dict[str, HeadEvaluation] = {}
        """After `evaluate`: each subcategory head with its confusion table."""
        self._categories = dataset.categories
        self._ground_truth = coco_ground_truth(dataset)
        self._max_detections = max_detections
        self._bootstrap = bootstrap
        self._gather = gather
        self._images: dict[int, list[Result]] = {}

    def reset(self) -> None:
        self._images = {}
        self.heads = {}

    def process(self, inputs: Sequence[TestSample], outputs: Sequence[Instances | PackedInstances[Rle]]) -> None:
        """Raises ValueError where masks are not of the size of the original image."""
        for sample, instances in zip(inputs, outputs, strict=True):
            size = _mask_size(instances)
            if size is not None and size != (sample.height, sample.width):
                raise ValueError(
                    f"predictions for {sample.file} must have masks of the original size (height, width) = "
                    f"{(sample.height, sample.width)}, but got {size}"
                )
            if sample.image_id not in self._images:
                self._images[sample.image_id] = instances_to_results(
                    instances, image_id=sample.image_id, categories=self._categories
                )

    def evaluate(self) -> dict[str, float]:
        if self._gather is not None:
            self._images = _merged(self._gather(list(self._images.items())))
        evaluation = evaluate_results(
            self._ground_truth, self.results, max_detections=self._max_detections, bootstrap=self._bootstrap
        )
        self.heads = evaluation.heads
        return evaluation.metrics

    @property
    def results(self) -> list[Result]:
        """COCO results in the order of image ids: this worker's, and after `evaluate` those of all workers."""
        return [result for image_id in sorted(self._images) for result in self._images[image_id]]


def _mask_size(instances: Instances | PackedInstances[Rle]) -> tuple[int, ...] | None:
    """(height, width); None without any mask."""
    if isinstance(instances, Instances):
        return tuple(instances.masks.shape[-2:])
    return tuple(instances.masks[0]["size"]) if instances.masks else None


def _merged(workers: Sequence[Sequence[tuple[int, list[Result]]]]) -> dict[int, list[Result]]:
    """Each image once; of repeated ones the lowest rank's, so that all workers agree."""
    images: dict[int, list[Result]] = {}
    for worker in workers:
        for image_id, results in worker:
            images.setdefault(image_id, results)
    return images
