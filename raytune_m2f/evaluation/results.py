"""Predicted instances as COCO results (the JSON that COCO's own tools read), and their whole evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from torch import Tensor

from raytune_m2f.data import Categories, CocoDataset
from raytune_m2f.data.masks import Rle
from raytune_m2f.errors import DatasetError
from raytune_m2f.evaluation.bootstrap import ap_standard_error
from raytune_m2f.evaluation.coco import Task, coco_ground_truth, coco_metrics, run_cocoeval
from raytune_m2f.evaluation.subcategories import HeadEvaluation, evaluate_heads, head_metrics
from raytune_m2f.model import Instances, PackedInstances
from raytune_m2f.storage.files import write_atomically

Result = dict[str, Any]
"""One detection: "image_id", "category_id" (COCO's id), "segmentation" (RLE, counts as text), "bbox" (x, y, width,
height in pixels), "score", and for each subcategory head "<name>" (index of its class) and "<name>_score" (its
probability)."""


@dataclass(frozen=True)
class Evaluation:
    """All that is measured.

    Attributes:
        metrics: "segm/..." of `coco_metrics`, "segm/AP_se" if it was asked for, and "<head>/..." of `head_metrics`.
        heads: each subcategory head with its confusion table.
    """

    metrics: dict[str, float]
    heads: dict[str, HeadEvaluation]


def evaluate_results(
    ground_truth: CocoDataset | COCO,
    results: Sequence[Mapping[str, Any]],
    *,
    tasks: Sequence[Task] = ("segm",),
    max_detections: int = 100,
    bootstrap: int = 0,
) -> Evaluation:
    """All metrics of a list of results.

    Args:
        ground_truth: a data set, or what `coco_ground_truth` made of it (faster when evaluating repeatedly).
        results: see `Result`; every head of the data set must be there.
        tasks: what is compared, masks or boxes; heads and the standard error are the first one's.
        max_detections: detections counted per image and category.
        bootstrap: draws of images for "segm/AP_se", the standard error of "segm/AP"; 0 leaves it out.

    Raises:
        DatasetError: a result names an unknown image or category, or lacks a head.
    """
    truth = coco_ground_truth(ground_truth) if isinstance(ground_truth, CocoDataset) else ground_truth
    _check_heads(truth.dataset.get("subcategories", {}), results)
    evaluations = [run_cocoeval(truth, results, task, max_detections=max_detections) for task in tasks]
    metrics = {name: value for evaluation in evaluations for name, value in coco_metrics(evaluation).items()}
    if bootstrap:
        metrics[f"{tasks[0]}/AP_se"] = ap_standard_error(evaluations[0], bootstrap)
    heads = evaluate_heads(evaluations[0], results)
    return Evaluation(metrics | head_metrics(heads), heads)


def encode_masks(masks: Tensor) -> list[Rle]:
    """Masks (K, H, W) bool as run lengths, counts as text."""
    if len(masks) == 0:
        return []
    # pycocotools reads columns: transposed in torch, the (H, W, K) view of (K, W, H) is in Fortran's order at no cost.
    columns = masks.to(torch.uint8).transpose(1, 2).contiguous().cpu().numpy()
    rles = mask_utils.encode(columns.transpose(2, 1, 0))
    return [{"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles]


def instances_to_results(
    instances: Instances | PackedInstances[Rle], *, image_id: int, categories: Categories
) -> list[Result]:
    """The instances of one image as results, in the same order; masks become run lengths, if they are none yet."""
    if len(instances) == 0:
        return []
    rles = instances.masks if isinstance(instances, PackedInstances) else encode_masks(instances.masks)
    boxes = mask_utils.toBbox(rles).tolist()
    results: list[Result] = [
        {
            "image_id": image_id,
            "category_id": categories.ids[label],
            "segmentation": rle,
            "bbox": box,
            "score": score,
        }
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


def _check_heads(heads: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    missing = [name for name in heads if any(name not in result for result in results)]
    if missing:
        raise DatasetError(
            f"the data set has the subcategories {', '.join(map(repr, heads))}, but the results do not state "
            f"{', '.join(map(repr, missing))}. Leave them out of DATASETS.SUBCATEGORIES, or predict with a model "
            "that was trained on them."
        )
