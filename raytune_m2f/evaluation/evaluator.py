"""Evaluation during training: batches in, metrics out, over any number of workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from typing_extensions import TypeVar

from raytune_m2f.data import CocoDataset, TestSample
from raytune_m2f.data.masks import Rle
from raytune_m2f.evaluation.coco import Task, coco_ground_truth
from raytune_m2f.evaluation.results import Result, evaluate_results, instances_to_results
from raytune_m2f.evaluation.subcategories import HeadEvaluation
from raytune_m2f.model import Instances, PackedInstances

Found = Instances | PackedInstances[Rle]
Sample = TypeVar("Sample", contravariant=True, default=Any)
Prediction = TypeVar("Prediction", contravariant=True, default=Any)

Gather = Callable[[list[Any]], list[list[Any]]]
"""Hands every worker the lists of all workers, in the order of their ranks."""


ToResults = Callable[[CocoDataset, Any, Any], tuple[int, list[Result]]]
"""(dataset, sample, prediction) to the image's id and COCO results."""


class Evaluator(Protocol[Sample, Prediction]):
    """detectron2's verbs: reset, then process every batch, then evaluate."""

    def reset(self) -> None:
        """Forget every prediction."""

    def process(self, inputs: Sequence[Sample], outputs: Sequence[Prediction]) -> None:
        """Take the predictions of a batch: `outputs[i]` at the original size of image `inputs[i]`."""

    def evaluate(self) -> dict[str, float]:
        """Metrics over the predictions of all workers; every worker calls it and gets the same numbers."""


def instance_results(dataset: CocoDataset, sample: TestSample, instances: Found) -> tuple[int, list[Result]]:
    """`ToResults` of our own network. Raises ValueError where masks are not of the original image's size."""
    size = _mask_size(instances)
    if size is not None and size != (sample.height, sample.width):
        raise ValueError(
            f"predictions for {sample.file} must have masks of the original size (height, width) = "
            f"{(sample.height, sample.width)}, but got {size}"
        )
    number = sample.image_id
    return number, instances_to_results(instances, image_id=number, categories=dataset.categories)


class CocoEvaluator:
    """`Evaluator` by COCO's metrics and each subcategory head's accuracy.

    A prediction is turned into run lengths at once: nothing is kept at full resolution longer than one image. An image
    that comes twice, from one worker or from several (samplers repeat images to even out workers), counts once. Every
    image of the data set counts: one that was never processed is one where nothing was found.

    All workers compute the metrics. One of them could, but the others would only wait for it.

    Args:
        dataset: the ground truth, prepared here once for all evaluations of a run.
        tasks: masks, boxes or both; see `evaluate_results`.
        max_detections: detections counted per image and category (`TEST.DETECTIONS_PER_IMAGE`).
        bootstrap: draws for "segm/AP_se" (`TEST.BOOTSTRAP`), 0 for none.
        gather: `torch.distributed.all_gather_object` over the workers as a function; None for one worker.
        to_results: how samples and predictions are read; by default TestSample and Instances.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        tasks: Sequence[Task] = ("segm",),
        max_detections: int = 100,
        bootstrap: int = 0,
        gather: Gather | None = None,
        to_results: ToResults = instance_results,
    ) -> None:
        self.heads: dict[str, HeadEvaluation] = {}
        """After `evaluate`: each subcategory head with its confusion table."""
        self.dataset = dataset
        self._ground_truth = coco_ground_truth(dataset)
        self._settings: dict[str, Any] = {"tasks": tasks, "max_detections": max_detections, "bootstrap": bootstrap}
        self._gather = gather
        self._to_results = to_results
        self._images: dict[int, list[Result]] = {}

    def reset(self) -> None:
        self._images = {}
        self.heads = {}

    def process(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        for sample, prediction in zip(inputs, outputs, strict=True):
            image_id, results = self._to_results(self.dataset, sample, prediction)
            self._images.setdefault(image_id, results)

    def evaluate(self) -> dict[str, float]:
        if self._gather is not None:
            self._images = _merged(self._gather(list(self._images.items())))
        evaluation = evaluate_results(self._ground_truth, self.results, **self._settings)
        self.heads = evaluation.heads
        return evaluation.metrics

    @property
    def results(self) -> list[Result]:
        """COCO results in the order of image ids: this worker's, and after `evaluate` those of all workers."""
        return [result for image_id in sorted(self._images) for result in self._images[image_id]]


def _mask_size(instances: Found) -> tuple[int, ...] | None:
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
