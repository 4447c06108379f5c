"""COCO's metrics of masks ("segm") and boxes ("bbox"), computed by pycocotools and named as detectron2 names them.

COCOeval keeps ids in numpy arrays, where those beyond int64 become floats that no longer match. Images and categories
are therefore numbered from 1 in the order of their ids; results keep the ids of the file.

Axes of COCOeval's arrays: T IoU thresholds (0.50, 0.55 ... 0.95), R recall points (101), K categories,
A area ranges (all, small, medium, large), M bounds on the detections per image and category (maxDets).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raytune_m2f.data import CocoDataset
from raytune_m2f.errors import DatasetError

Task = Literal["segm", "bbox"]
_AREA_SUFFIXES = {"small": "s", "medium": "m", "large": "l"}


def coco_ground_truth(dataset: CocoDataset) -> COCO:
    """The data set in pycocotools' form; it serves any number of evaluations.

    Masks are run lengths already, and annotations are numbered from 1: COCOeval takes an annotation with id
    0 for "no match". An annotation carries `sublabels`, and the data set `subcategories`, for
    `evaluate_heads`. `image_numbers` and `category_numbers` map the file's ids to numbers.
    """
    categories = dataset.categories
    images = {record.id: number for number, record in enumerate(dataset.records, start=1)}
    annotations = [
        {
            "image_id": images[record.id],
            "category_id": annotation.label + 1,
            "segmentation": annotation.rle(record.height, record.width),
            "bbox": list(annotation.bbox),
            "area": annotation.area,
            "iscrowd": int(annotation.iscrowd),
            "sublabels": annotation.sublabels,
        }
        for record in dataset.records
        for annotation in record.annotations
    ]
    return _indexed(
        images=[{"id": images[r.id], "height": r.height, "width": r.width} for r in dataset.records],
        categories=[{"id": label, "name": name} for label, name in enumerate(categories.names, start=1)],
        annotations=[{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        subcategories=categories.subcategories,
        image_numbers=images,
        category_numbers={i: label for label, i in enumerate(categories.ids, start=1)},
    )


def with_numbers(opened: COCO) -> COCO:
    """An annotation file that was opened by pycocotools, numbered as `coco_ground_truth` does."""
    if "image_numbers" in opened.dataset:
        return opened
    images, categories = ({i: n for n, i in enumerate(sorted(known), 1)} for known in (opened.imgs, opened.cats))
    return _indexed(
        images=[{**image, "id": images[image["id"]]} for image in opened.imgs.values()],
        categories=[{**category, "id": categories[category["id"]]} for category in opened.cats.values()],
        annotations=[
            {**a, "image_id": images[a["image_id"]], "category_id": categories[a["category_id"]]}
            for a in opened.anns.values()
        ],
        image_numbers=images,
        category_numbers=categories,
    )


def numbered(ground_truth: COCO, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Results under the numbers that `coco_ground_truth` gives images and categories.

    Raises:
        DatasetError: a result names an image or a category that the ground truth does not have.
    """
    images, categories = (ground_truth.dataset[key] for key in ("image_numbers", "category_numbers"))
    _require_known(results, image_id=images, category_id=categories)
    return [{**r, "image_id": images[r["image_id"]], "category_id": categories[r["category_id"]]} for r in results]


def run_cocoeval(
    ground_truth: COCO, results: Sequence[Mapping[str, Any]], task: Task = "segm", *, max_detections: int
) -> COCOeval:
    """COCOeval after evaluate() and accumulate(), without what it prints.

    Args:
        ground_truth: from `coco_ground_truth`, or a COCO annotation file opened by pycocotools.
        results: COCO results: "image_id", "category_id", "score", and the task's "segmentation" (compressed RLE) or
            "bbox" (x, y, width, height in pixels). Number i of them has id i + 1 in COCOeval's arrays.
        max_detections: detections counted per image and category (COCO's largest maxDets).

    Raises:
        DatasetError: a result names an image or a category that the ground truth does not have.
    """
    ground_truth = with_numbers(ground_truth)
    detections = _detections(ground_truth, numbered(ground_truth, results), task)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth, detections, iouType=task)
        evaluation.params.maxDets = sorted({1, min(10, max_detections), max_detections})
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def coco_metrics(evaluation: COCOeval) -> dict[str, float]:
    """AP and AR in percent, as COCOeval.summarize() prints them; its AP reads maxDets = 100 only, here the largest.

    Returns:
        detectron2's names, behind the task: "segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl",
        "segm/AR<maxDets>" for 1, 10 and the largest bound, "segm/ARs", "segm/ARm", "segm/ARl", and
        "segm/AP-<name>" of every category. NaN where there is no ground truth to measure against (COCO's -1).
    """
    params, categories = evaluation.params, evaluation.cocoGt.cats
    precision: NDArray[np.float64] = evaluation.eval["precision"][..., -1]  # (T, R, K, A)
    recall: NDArray[np.float64] = evaluation.eval["recall"]  # (T, K, A, M)
    every, areas = params.areaRngLbl.index("all"), params.areaRngLbl
    metrics = {"AP": _percent(precision[..., every])}
    for threshold in (0.50, 0.75):
        at = np.isclose(params.iouThrs, threshold)
        metrics[f"AP{threshold * 100:.0f}"] = _percent(precision[at][..., every])
    for area, suffix in _AREA_SUFFIXES.items():
        metrics[f"AP{suffix}"] = _percent(precision[..., areas.index(area)])
    for m, bound in enumerate(params.maxDets):
        metrics[f"AR{bound}"] = _percent(recall[:, :, every, m])
    for area, suffix in _AREA_SUFFIXES.items():
        metrics[f"AR{suffix}"] = _percent(recall[:, :, areas.index(area), -1])
    for k, category_id in enumerate(params.catIds):
        metrics[f"AP-{categories[category_id]['name']}"] = _percent(precision[:, :, k, every])
    return {f"{params.iouType}/{name}": value for name, value in metrics.items()}


def _percent(values: NDArray[np.float64]) -> float:
    """The mean in percent of the settings that have ground truth (the others are -1); NaN if none has."""
    measured = values[values > -1]
    return 100.0 * float(measured.mean()) if measured.size else float("nan")


def _detections(ground_truth: COCO, results: Sequence[Mapping[str, Any]], task: Task) -> COCO:
    """What COCO.loadRes does, but also for no results at all, and with the area of the task's own shape.

    loadRes takes the area of a "bbox" for "segm" too where the results have one, which moves APs, APm and APl.
    """
    return _indexed(
        images=ground_truth.dataset["images"],
        categories=ground_truth.dataset["categories"],
        annotations=[
            {**result, "id": number, "area": _area(result, task), "iscrowd": 0}
            for number, result in enumerate(results, start=1)
        ],
    )


def _area(result: Mapping[str, Any], task: Task) -> float:
    """In pixels. mask.area takes one mask: pycocotools 2.0.11 with numpy 2 fails on more than 255 in a call."""
    if task == "segm":
        return float(mask_utils.area(result["segmentation"]))
    return float(result["bbox"][2] * result["bbox"][3])


def _indexed(**dataset: Any) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def _require_known(results: Sequence[Mapping[str, Any]], **known: Mapping[int, int]) -> None:
    """Refuse ids that COCOeval would silently ignore."""
    for key, ids in known.items():
        unknown = sorted({result[key] for result in results} - ids.keys())
        if unknown:
            shown = ", ".join(map(str, unknown[:5])) + (" ..." if len(unknown) > 5 else "")
            raise DatasetError(
                f"the results have {len(unknown)} {key} that the ground truth does not have: {shown}. "
                "Evaluate against the annotation file whose images were predicted."
            )
