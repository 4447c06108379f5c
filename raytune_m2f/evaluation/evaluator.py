"""Predicted instances as COCO results (the JSON that COCO's own tools read), their whole evaluation, and the evaluator
of a training: batches in, metrics out, over any number of workers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from pycocotools import mask as mask_utils
from torch import Tensor
from typing_extensions import TypeVar

from raytune_m2f.data import Categories, CocoDataset, TestSample
from raytune_m2f.data.masks import Rle
from raytune_m2f.errors import DatasetError
from raytune_m2f.evaluation.bootstrap import ap_standard_error
from raytune_m2f.evaluation.coco import (
    EvaluatorName,
    GroundTruth,
    Task,
    coco_ground_truth,
    require_evaluator,
    run_cocoeval,
    standard_metrics,
)
from raytune_m2f.evaluation.subcategories import HeadEvaluation, evaluate_heads, head_metrics
from raytune_m2f.model import Instances, PackedInstances
from raytune_m2f.storage.files import write_atomically

Result = dict[str, Any]
"""One detection: "image_id", "category_id" (COCO's id), "segmentation" (RLE, counts as text), "bbox" (x, y, width,
height in pixels), "score", and for each subcategory head "<name>" (index of its class) and "<name>_score" (its
probability)."""

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


@dataclass(frozen=True)
class Evaluation:
    """All that is measured.

    Attributes:
        metrics: "segm/..." of `standard_metrics`, "segm/AP_se" if it was asked for, and "<head>/..." of `head_metrics`.
        heads: each subcategory head with its confusion table.
    """

    metrics: dict[str, float]
    heads: dict[str, HeadEvaluation]


def evaluate_results(
    ground_truth: CocoDataset | GroundTruth,
    results: Sequence[Mapping[str, Any]],
    *,
    tasks: Sequence[Task] = ("segm",),
    max_detections: int = 100,
    bootstrap: int = 0,
    evaluator: EvaluatorName = "hotcoco",
) -> Evaluation:
    """All metrics of a list of results.

    Args:
        ground_truth: a data set, or what `coco_ground_truth` made of it (faster when evaluating repeatedly).
        results: see `Result`; every head of the data set must be there.
        tasks: what is compared, masks or boxes; heads and the standard error are the first one's.
        max_detections: detections counted per image and category.
        bootstrap: draws of images for "segm/AP_se", the standard error of "segm/AP"; 0 leaves it out.
        evaluator: TEST.EVALUATOR, what computes the metrics of the tasks.

    Raises:
        DatasetError: a result names an unknown image or category, or lacks a head.
        MissingDependencyError: the evaluator is not installed.
    """
    truth = coco_ground_truth(ground_truth) if isinstance(ground_truth, CocoDataset) else ground_truth
    _check_heads(truth.dataset.get("subcategories", {}), results)
    metrics: dict[str, float] = {}
    for task in tasks:
        metrics |= standard_metrics(truth, results, task, max_detections=max_detections, evaluator=evaluator)
    evaluation = run_cocoeval(truth, results, tasks[0], max_detections=max_detections)
    if bootstrap:
        metrics[f"{tasks[0]}/AP_se"] = ap_standard_error(evaluation, bootstrap)
    heads = evaluate_heads(evaluation, results)
    return Evaluation(metrics | head_metrics(heads), heads)


def encode_masks(masks: Tensor) -> list[Rle]:
    """Masks (K, H, W) bool as run lengths, counts as text."""
    if len(masks) == 0:
        return []
    # pycocotools reads columns: transposed in torch, the (H, W, K) view of (K, W, H) is in Fortran's order at no cost.
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    rles = mask_utils.encode(columns.transpose(2, 1, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]


def instances_to_results(instances: Found, *, image_id: int, categories: Categories) -> list[Result]:
    """The instances of one image as results, in the same order; masks become run lengths, if they are none yet."""
    if len(instances) == 0:
        return []
    rles = instances.masks if isinstance(instances, PackedInstances) else encode_masks(instances.masks)
    boxes = mask_utils.toBbox(rles).tolist()
    results: list[Result] = [
        {"image_id": image_id, "category_id": categories.ids[label], "segmentation": rle, "bbox": box, "score": score}
        for label, score, rle, box in zip(
            instances.labels.tolist(), instances.scores.tolist(), rles, boxes, strict=True
        )
    ]
    for name, probabilities in instances.subprobs.items():
        best = probabilities.max(dim=-1)
        for result, index, score in zip(results, best.indices.tolist(), best.values.tolist(), strict=True):
            result[name], result[f"{name}_score"] = index, score
    return results


def results_to_json(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write results as COCO's results file: one JSON list, a result on each line."""
    lines = ",\n".join(json.dumps(result, allow_nan=False) for result in results)
    write_atomically(path, f"[\n{lines}\n]\n")


def instance_results(dataset: CocoDataset, sample: TestSample, instances: Found) -> tuple[int, list[Result]]:
    """`ToResults` of our own network. Raises ValueError where masks are not of the original image's size."""
    expected: tuple[int, ...] = (sample.height, sample.width)
    size = expected
    if isinstance(instances, Instances):
        size = tuple(instances.masks.shape[-2:])
    elif instances.masks:
        size = tuple(instances.masks[0]["size"])
    if size != expected:
        raise ValueError(
            f"predictions for {sample.file} must have masks of the original size (height, width) = "
            f"{expected}, but got {size}"
        )
    return sample.image_id, instances_to_results(instances, image_id=sample.image_id, categories=dataset.categories)


class CocoEvaluator:
    """`Evaluator` by COCO's metrics and each subcategory head's accuracy.

    A prediction is turned into run lengths at once: nothing is kept at full resolution longer than one image. An image
    that comes twice, from one worker or from several (samplers repeat images to even out workers), counts once. Every
    image of the data set counts: one that was never processed is one where nothing was found.

    All workers compute the metrics. One of them could, but the others would only wait for it.

    Args:
        dataset: the ground truth, prepared here once for all evaluations of a run.
        tasks, max_detections, bootstrap, evaluator: of `evaluate_results`.
        gather: `torch.distributed.all_gather_object` over the workers as a function; None for one worker.
        to_results: how samples and predictions are read; by default TestSample and Instances.

    Raises:
        MissingDependencyError: the evaluator is not installed.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        tasks: Sequence[Task] = ("segm",),
        max_detections: int = 100,
        bootstrap: int = 0,
        evaluator: EvaluatorName = "hotcoco",
        gather: Gather | None = None,
        to_results: ToResults = instance_results,
    ) -> None:
        require_evaluator(evaluator)
        self.heads: dict[str, HeadEvaluation] = {}
        """After `evaluate`: each subcategory head with its confusion table."""
        self.dataset = dataset
        self._ground_truth = coco_ground_truth(dataset)
        self._settings: dict[str, Any] = {
            "tasks": tasks,
            "max_detections": max_detections,
            "bootstrap": bootstrap,
            "evaluator": evaluator,
        }
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
            pairs = chain.from_iterable(self._gather(list(self._images.items())))
            self._images = dict(reversed(list(pairs)))  # of repeated images the lowest rank's, so that all agree
        evaluation = evaluate_results(self._ground_truth, self.results, **self._settings)
        self.heads = evaluation.heads
        return evaluation.metrics

    @property
    def results(self) -> list[Result]:
        """COCO results in the order of image ids: this worker's, and after `evaluate` those of all workers."""
        return [result for image_id in sorted(self._images) for result in self._images[image_id]]


def _check_heads(heads: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    missing = [name for name in heads if any(name not in result for result in results)]
    if missing:
        raise DatasetError(
            f"the data set has the subcategories {', '.join(map(repr, heads))}, but the results do not state "
            f"{', '.join(map(repr, missing))}. Leave them out of DATASETS.SUBCATEGORIES, or predict with a model "
            "that was trained on them."
        )
