"""COCO's metrics of masks ("segm") and boxes ("bbox"), computed by pycocotools and named as detectron2 names them.

COCOeval keeps ids in numpy arrays, where those beyond int64 become floats that no longer match. Images and categories
are therefore numbered from 1 in the order of their ids; results keep the ids of the file.

Axes of COCOeval's arrays: T IoU thresholds (0.50, 0.55 ... 0.95), R recall points (101), K categories,
A area ranges (all, small, medium, large), M bounds on the detections per image and category (maxDets).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raytune_m2f.data import CocoDataset
from raytune_m2f.errors import DatasetError, first_of

Task = Literal["segm", "bbox"]
_Entries = Sequence[Mapping[str, Any]]
_AREA_SUFFIXES = {"small": "s", "medium": "m", "large": "l"}


def coco_ground_truth(dataset: CocoDataset) -> COCO:
    """The data set in pycocotools' form; it serves any number of evaluations.

    Masks are run lengths already, and annotations are numbered from 1: COCOeval takes an annotation with id
    0 for "no match". An annotation carries `sublabels`, and the data set `subcategories`, for
    `evaluate_heads`. `image_numbers` and `category_numbers` map the file's ids to numbers.
    """
    categories = dataset.categories
    annotations = [
        {
            "image_id": record.id,
            "category_id": categories.ids[annotation.label],
            "segmentation": annotation.rle(record.height, record.width),
            "bbox": list(annotation.bbox),
            "area": annotation.area,
            "iscrowd": int(annotation.iscrowd),
            "sublabels": annotation.sublabels,
        }
        for record in dataset.records
        for annotation in record.annotations
    ]
    truth = _indexed(
        images=[{"id": r.id, "height": r.height, "width": r.width} for r in dataset.records],
        categories=[{"id": i, "name": name} for i, name in zip(categories.ids, categories.names, strict=True)],
        annotations=[{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        subcategories=categories.subcategories,
    )
    return with_numbers(truth)


def with_numbers(opened: COCO) -> COCO:
    """An annotation file that was opened by pycocotools, numbered as `coco_ground_truth` does."""
    if "image_numbers" in opened.dataset:
        return opened
    images, categories = ({i: n for n, i in enumerate(sorted(known), 1)} for known in (opened.imgs, opened.cats))
    numbered = {
        "images": [{**image, "id": images[image["id"]]} for image in opened.imgs.values()],
        "categories": [{**category, "id": categories[category["id"]]} for category in opened.cats.values()],
        "annotations": _renumber(opened.anns.values(), images, categories),
    }
    return _indexed(**opened.dataset | numbered, image_numbers=images, category_numbers=categories)


def _renumber(entries: Iterable[Any], images: Mapping[int, int], categories: Mapping[int, int]) -> list[dict[str, Any]]:
    return [{**e, "image_id": images[e["image_id"]], "category_id": categories[e["category_id"]]} for e in entries]


def numbered(ground_truth: COCO, results: _Entries) -> list[dict[str, Any]]:
    """Results under the numbers that `coco_ground_truth` gives images and categories.

    Raises:
        DatasetError: a result names an image or a category that the ground truth does not have.
    """
    images, categories = (ground_truth.dataset[key] for key in ("image_numbers", "category_numbers"))
    for key, ids in (("image_id", images), ("category_id", categories)):  # COCOeval would silently ignore others
        if unknown := sorted({result[key] for result in results} - ids.keys()):
            raise DatasetError(
                f"the results have {len(unknown)} {key} that the ground truth does not have: "
                f"{', '.join(first_of(unknown, 5))}. Evaluate against the annotation file whose images were predicted."
            )
    return _renumber(results, images, categories)


def run_cocoeval(ground_truth: COCO, results: _Entries, task: Task = "segm", *, max_detections: int) -> COCOeval:
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
    at = {f"AP{threshold * 100:.0f}": np.isclose(params.iouThrs, threshold) for threshold in (0.50, 0.75)}
    metrics = {
        "AP": _percent(precision[..., every]),
        **{name: _percent(precision[chosen][..., every]) for name, chosen in at.items()},
        **{f"AP{suffix}": _percent(precision[..., areas.index(area)]) for area, suffix in _AREA_SUFFIXES.items()},
        **{f"AR{bound}": _percent(recall[:, :, every, m]) for m, bound in enumerate(params.maxDets)},
        **{f"AR{suffix}": _percent(recall[:, :, areas.index(area), -1]) for area, suffix in _AREA_SUFFIXES.items()},
        **{f"AP-{categories[i]['name']}": _percent(precision[:, :, k, every]) for k, i in enumerate(params.catIds)},
    }
    return {f"{params.iouType}/{name}": value for name, value in metrics.items()}


def _percent(values: NDArray[np.float64]) -> float:
    """The mean in percent of the settings that have ground truth (the others are -1); NaN if none has."""
    measured = values[values > -1]
    return 100.0 * float(measured.mean()) if measured.size else float("nan")


def _detections(ground_truth: COCO, results: _Entries, task: Task) -> COCO:
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
