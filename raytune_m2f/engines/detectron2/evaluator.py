"""`Evaluator` by detectron2's COCOEvaluator: over several workers, with heads, standard error and COCO's recalls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from raytune_m2f.data import CocoDataset
from raytune_m2f.evaluation import Gather
from raytune_m2f.evaluation.bootstrap import ap_standard_error
from raytune_m2f.evaluation.coco import coco_ground_truth, run_cocoeval, segm_metrics
from raytune_m2f.evaluation.results import Result
from raytune_m2f.evaluation.subcategories import evaluate_heads, head_metrics


class Scorer(Protocol):
    """detectron2's COCOEvaluator, as it is used here."""

    found: dict[str, Any]
    """COCOeval of every task, after `score`."""

    def score(self, results: Sequence[Result]) -> dict[str, dict[str, float]]:
        """The metrics of each task, "segm" or "bbox", in percent."""


class CatalogEvaluator:
    """`Evaluator`. An image that comes twice counts once; one that never comes is one where nothing was found.

    Args:
        dataset: the ground truth.
        scorer: made from it.
        results_of: the image id of a sample, and its predictions as COCO results with a 0-based "category_id".
        tasks: "segm", "bbox" or both.
    """

    def __init__(
        self,
        dataset: CocoDataset,
        scorer: Scorer,
        results_of: Callable[[Any, Any], tuple[int, list[Result]]],
        *,
        tasks: Sequence[str],
        max_detections: int,
        bootstrap: int,
        gather: Gather | None,
    ) -> None:
        self._dataset = dataset
        self._scorer = scorer
        self._results_of = results_of
        self._tasks = tuple(tasks)
        self._max_detections = max_detections
        self._bootstrap = bootstrap
        self._gather = gather
        self._images: dict[int, list[Result]] = {}

    def reset(self) -> None:
        self._images = {}

    def process(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        for sample, prediction in zip(inputs, outputs, strict=True):
            image, results = self._results_of(sample, prediction)
            self._images.setdefault(image, results)

    def evaluate(self) -> dict[str, float]:
        own = list(self._images.items())
        merged: dict[int, list[Result]] = {}
        for worker in [own] if self._gather is None else self._gather(own):
            for image, found in worker:
                merged.setdefault(image, found)  # of repeated ones the lowest rank's, so that all workers agree
        results = [result for image in sorted(merged) for result in merged[image]]
        return self._score(results) if results else self._score_of_nothing()

    def _score(self, results: list[Result]) -> dict[str, float]:
        scores = self._scorer.score([dict(result) for result in results])
        metrics: dict[str, float] = {}
        for task in self._tasks:
            metrics |= _renamed(segm_metrics(self._scorer.found[task]), task)  # detectron2 gives no recalls
            metrics |= {f"{task}/{name}": value for name, value in scores[task].items()}
        first = self._scorer.found[self._tasks[0]]
        if self._bootstrap:
            metrics[f"{self._tasks[0]}/AP_se"] = ap_standard_error(first, self._bootstrap)
        return metrics | head_metrics(evaluate_heads(first, results))

    def _score_of_nothing(self) -> dict[str, float]:
        """Where detectron2 says NaN, which would end a trial: an untrained network is a bad one, not a broken one."""
        evaluation = run_cocoeval(coco_ground_truth(self._dataset), [], max_detections=self._max_detections)
        metrics: dict[str, float] = {}
        for task in self._tasks:
            metrics |= _renamed(segm_metrics(evaluation), task)
        if self._bootstrap:
            metrics[f"{self._tasks[0]}/AP_se"] = ap_standard_error(evaluation, self._bootstrap)
        return metrics | head_metrics(evaluate_heads(evaluation, []))


def truth_of(dataset: CocoDataset) -> dict[str, Any]:
    """The ground truth as a COCO file, with the annotations' own boxes and areas; everything is numbered from 1."""
    truth = coco_ground_truth(dataset).dataset
    content: dict[str, Any] = {key: truth[key] for key in ("images", "categories", "annotations", "subcategories")}
    boxes = [annotation.bbox for record in dataset.records for annotation in record.annotations]
    annotations = zip(content["annotations"], boxes, strict=True)
    return {**content, "annotations": [{**annotation, "bbox": list(box)} for annotation, box in annotations]}


def _renamed(metrics: dict[str, float], task: str) -> dict[str, float]:
    return {name.replace("segm/", f"{task}/", 1): value for name, value in metrics.items()}
