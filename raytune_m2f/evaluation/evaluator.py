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
from raytune_m2f.evaluation.bootstrap import standard_errors
from raytune_m2f.evaluation.coco import (
    EvaluatorName,
    GroundTruth,
    coco_ground_truth,
    error_gains,
    require_evaluator,
    require_results,
    standard_metrics,
)
from raytune_m2f.evaluation.measures import Measures
from raytune_m2f.evaluation.overlaps import Found, Task, Truths, found_in
from raytune_m2f.evaluation.subcategories import HeadEvaluation
from raytune_m2f.model import Instances, PackedInstances
from raytune_m2f.storage.files import write_atomically

Result = dict[str, Any]
"""One detection: "image_id", "category_id" (COCO's id), "segmentation" (RLE, counts as text), "bbox" (x, y, width,
height in pixels), "score", and for each subcategory head "<name>" (index of its class), "<name>_score" (its
probability) and "<name>_probabilities" (of all classes in turn; "no object" has the rest)."""

Predicted = Instances | PackedInstances[Rle]
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
        metrics: "segm/..." of `standard_metrics`, `standard_errors` if they were asked for, and those of
            `Measures.multitask`: joint AP of each head and of all, and "<head>/...".
        heads: each subcategory head with its confusion table.
        measures: what the metrics are of: for intervals, and for the comparison with another model.
    """

    metrics: dict[str, float]
    heads: dict[str, HeadEvaluation]
    measures: Measures


class Scorer:
    """A dataset prepared for any number of evaluations.

    Args:
        ground_truth: a dataset, or what `coco_ground_truth` made of it.
        tasks: what is compared, masks or boxes; the standard error, joint AP and heads are the first one's.
        max_detections: detections counted per image and category.
        bootstrap: draws of images for `standard_errors`; 0 leaves them out.
        evaluator: TEST.EVALUATOR, what computes COCO's own metrics.

    Raises:
        MissingDependencyError: the evaluator is not installed.
    """

    def __init__(
        self,
        ground_truth: CocoDataset | GroundTruth,
        *,
        tasks: Sequence[Task] = ("segm",),
        max_detections: int = 100,
        bootstrap: int = 0,
        evaluator: EvaluatorName = "hotcoco",
    ) -> None:
        require_evaluator(evaluator)
        self.ground_truth = ground_truth if isinstance(ground_truth, GroundTruth) else coco_ground_truth(ground_truth)
        self.truths = Truths.of(self.ground_truth.dataset)
        self.tasks, self.max_detections, self.bootstrap = tuple(tasks), max_detections, bootstrap
        self.evaluator: EvaluatorName = evaluator

    def found(self, image_id: int, results: Sequence[Mapping[str, Any]]) -> Found:
        """What metrics need of the results of an image."""
        number = self.truths.images[image_id]
        return Found.in_image(self.truths, number, results, task=self.tasks[0], max_detections=self.max_detections)

    def evaluate(self, results: Sequence[Mapping[str, Any]], found: Found) -> Evaluation:
        """All metrics of the results of a dataset, and what was `found` in all its images.

        Raises:
            DatasetError: a result names an unknown image or category, or lacks a head.
        """
        metrics: dict[str, float] = {}
        for task in self.tasks:
            metrics |= standard_metrics(
                self.ground_truth, results, task, max_detections=self.max_detections, evaluator=self.evaluator
            )
        measures = Measures(self.truths, found, self.tasks[0], tuple(self.ground_truth.names), self.max_detections)
        if self.bootstrap:
            metrics |= standard_errors(measures, self.bootstrap)
        metrics |= {name: float(values[0]) for name, values in measures.multitask(measures.once).items()}
        return Evaluation(metrics, {h: m.evaluation() for h, m in measures.heads.items()}, measures)

    def error_gains(self, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        """`error_gains` by the first task; nothing without hotcoco."""
        if self.evaluator != "hotcoco":
            return {}
        return error_gains(self.ground_truth, results, self.tasks[0], max_detections=self.max_detections)


def evaluate_results(
    ground_truth: CocoDataset | GroundTruth, results: Sequence[Mapping[str, Any]], **settings: Any
) -> Evaluation:
    """All metrics of a list of results; every head of the dataset must be there. See `Result`.

    Args:
        settings: of `Scorer`.

    Raises:
        DatasetError: a result names an unknown image or category, or lacks a head.
        MissingDependencyError: the evaluator is not installed.
    """
    scorer = Scorer(ground_truth, **settings)
    require_results(scorer.ground_truth, results, scorer.tasks[0])
    _require_heads(scorer.truths.heads, results)
    found = found_in(scorer.truths, results, task=scorer.tasks[0], max_detections=scorer.max_detections)
    return scorer.evaluate(results, found)


def encode_masks(masks: Tensor) -> list[Rle]:
    """Masks (K, H, W) bool as run lengths, counts as text."""
    if len(masks) == 0:
        return []
    # pycocotools reads columns: transposed in torch, the (H, W, K) view of (K, W, H) is in Fortran's order at no cost.
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    rles = mask_utils.encode(columns.transpose(2, 1, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]


def instances_to_results(instances: Predicted, *, image_id: int, categories: Categories) -> list[Result]:
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
        rows = probabilities.cpu().numpy()  # whose tolist is forty times as fast as torch's
        for result, index, row in zip(results, rows.argmax(-1).tolist(), rows.tolist(), strict=True):
            result[name], result[f"{name}_score"], result[f"{name}_probabilities"] = index, row[index], row
    return results


def results_to_json(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write results as COCO's results file: one JSON list, a result on each line."""
    lines = ",\n".join(json.dumps(result, allow_nan=False) for result in results)
    write_atomically(path, f"[\n{lines}\n]\n")


def instance_results(dataset: CocoDataset, sample: TestSample, instances: Predicted) -> tuple[int, list[Result]]:
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
    """`Evaluator` by COCO's metrics, joint AP and each subcategory head's measures.

    A prediction is turned into run lengths and compared with the ground truth at once: nothing is kept at full
    resolution longer than one image. An image that comes twice, from one worker or from several (samplers repeat images
    to even out workers), counts once. Every image of the data set counts: one that was never processed is one where
    nothing was found.

    All workers compute the metrics. One of them could, but the others would only wait for it.

    Args:
        dataset: the ground truth, prepared here once for all evaluations of a run.
        gather: `torch.distributed.all_gather_object` over the workers as a function; None for one worker.
        to_results: how samples and predictions are read; by default TestSample and Instances.
        settings: of `Scorer`.

    Raises:
        MissingDependencyError: the evaluator is not installed.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        *,
        gather: Gather | None = None,
        to_results: ToResults = instance_results,
        **settings: Any,
    ) -> None:
        self.dataset = dataset
        self._evaluation: Evaluation | None = None
        self._scorer = Scorer(dataset, **settings)
        self._gather = gather
        self._to_results = to_results
        self._images: dict[int, tuple[list[Result], Found]] = {}

    def reset(self) -> None:
        self._images = {}
        self._evaluation = None

    def process(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        for sample, prediction in zip(inputs, outputs, strict=True):
            image_id, results = self._to_results(self.dataset, sample, prediction)
            if image_id not in self._images:
                self._images[image_id] = results, self._scorer.found(image_id, results)

    def evaluate(self) -> dict[str, float]:
        if self._gather is not None:
            pairs = chain.from_iterable(self._gather(list(self._images.items())))
            self._images = dict(reversed(list(pairs)))  # of repeated images the lowest rank's, so that all agree
        found = Found.joined([each for _, each in self._images.values()], self._scorer.truths)
        self._evaluation = self._scorer.evaluate(self.results, found)
        return self._evaluation.metrics

    @property
    def evaluation(self) -> Evaluation:
        """All that the last `evaluate` measured."""
        if self._evaluation is None:
            raise RuntimeError("nothing has been evaluated yet: call evaluate()")
        return self._evaluation

    def error_gains(self) -> dict[str, float]:
        """`error_gains` of what was found; nothing where TEST.EVALUATOR is pycocotools, which cannot tell."""
        return self._scorer.error_gains(self.results)

    @property
    def results(self) -> list[Result]:
        """COCO results in the order of image ids: this worker's, and after `evaluate` those of all workers."""
        return [result for image_id in sorted(self._images) for result in self._images[image_id][0]]


def _require_heads(heads: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    missing = [h for h in heads if any(h not in result or f"{h}_probabilities" not in result for result in results)]
    if missing:
        raise DatasetError(
            f"the data set has the subcategories {', '.join(map(repr, heads))}, but the results do not state "
            f"{', '.join(map(repr, missing))}. Leave them out of DATASETS.SUBCATEGORIES, or predict with a model "
            "that was trained on them."
        )
