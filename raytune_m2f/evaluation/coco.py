"""COCO's metrics of masks ("segm") and boxes ("bbox"), named as detectron2 names them; hotcoco computes them, or
pycocotools, with the same numbers.

Both keep ids in machine integers, and COCOeval turns those beyond int64 into floats that no longer match. Images and
categories are therefore numbered from 1 in the order of their ids; results keep the ids of the file.

Axes of the arrays: T IoU thresholds (0.50, 0.55 ... 0.95), R recall points (101), K categories in the order of their
ids, A area ranges (all, small, medium, large), M bounds on the detections per image and category (maxDets).
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raytune_m2f.config.fields.data import EvaluatorName as EvaluatorName
from raytune_m2f.data import CocoDataset
from raytune_m2f.errors import DatasetError, MissingDependencyError, NonFiniteLossError, first_of
from raytune_m2f.evaluation.overlaps import SHAPE
from raytune_m2f.evaluation.overlaps import Task as Task

if TYPE_CHECKING:
    import hotcoco

"""What a task compares."""
_Entries = Sequence[Mapping[str, Any]]

AREAS = ("all", "small", "medium", "large")
"""Axis A. A limit belongs to both ranges: 32 x 32 pixels are small and medium."""
_AREA_SUFFIXES = {"small": "s", "medium": "m", "large": "l"}
_THRESHOLDS = {"AP50": 0, "AP75": 5}
"""Their indices in axis T."""
_ERRORS = {
    "classification": "Cls",
    "localisation": "Loc",
    "both": "Both",
    "duplicate": "Dupe",
    "background": "Bkg",
    "missed": "Miss",
}
"""Kinds of errors, and TIDE's names of them."""


class GroundTruth:
    """The annotations that results are measured against; it serves any number of evaluations.

    Attributes:
        dataset: a COCO file's content, where
            "images" and "categories" have ids from 1, in the order of the file's ids;
            "annotations" have ids from 1 (COCOeval takes 0 for "no match"), "image_id", "category_id", "area",
            "iscrowd", "bbox" and their masks as compressed RLE with text ("segmentation"; both absent where the file
            has none), and from `coco_ground_truth` "sublabels", the class of each head;
            "image_numbers" and "category_numbers" map the file's ids to these;
            "subcategories", from `coco_ground_truth`, are the names of each head's classes.
    """

    def __init__(self, dataset: dict[str, Any]):
        self.dataset = dataset

    @classmethod
    def of_file(cls, content: Mapping[str, Any]) -> GroundTruth:
        """An annotation file's content, which is left as it is.

        Raises:
            DatasetError: an annotation names an image or a category that the file does not have, has no area, or
                an area or a box that is not finite.
        """
        images, categories = ({entry["id"]: entry for entry in content[key]} for key in ("images", "categories"))
        known = {
            "image_numbers": {i: number for number, i in enumerate(sorted(images), 1)},
            "category_numbers": {i: number for number, i in enumerate(sorted(categories), 1)},
        }
        _require_known(content["annotations"], known, "the annotations", "the file", "Correct the annotation file.")
        for annotation in content["annotations"]:
            numbers = [annotation.get("area", math.nan), *annotation.get("bbox", ())]
            if not all(map(math.isfinite, numbers)):
                raise DatasetError(
                    f"annotation {annotation['id']} must have an area and a box of finite numbers, got area "
                    f"{annotation.get('area')} and bbox {annotation.get('bbox')}. Correct the annotation file."
                )
        annotations = [
            {**annotation, "id": number, "iscrowd": int(annotation.get("iscrowd", 0)), **_rle_of(annotation, images)}
            for number, annotation in enumerate(content["annotations"], start=1)
        ]
        entries = {
            "images": [{**image, "id": known["image_numbers"][i]} for i, image in images.items()],
            "categories": [{**category, "id": known["category_numbers"][i]} for i, category in categories.items()],
            "annotations": _renumber(annotations, known),
        }
        return cls({**content, **entries, **known})

    @cached_property
    def names(self) -> list[str]:
        """Names of the categories, in the order of axis K."""
        return [category["name"] for category in sorted(self.dataset["categories"], key=lambda entry: entry["id"])]

    @cached_property
    def hotcoco(self) -> hotcoco.COCO:
        """The data set as hotcoco has it, with what it reads. Raises MissingDependencyError without hotcoco."""
        require_evaluator("hotcoco")
        import hotcoco

        entries = {
            "images": ("id", "height", "width"),
            "categories": ("id", "name"),
            "annotations": ("id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd"),
        }
        return hotcoco.COCO(
            {
                part: [{key: entry[key] for key in keys if key in entry} for entry in self.dataset[part]]
                for part, keys in entries.items()
            }
        )

    @cached_property
    def pycocotools(self) -> COCO:
        """The data set as pycocotools has it."""
        return _indexed(**self.dataset)


@dataclass(frozen=True)
class Curves:
    """What is measured of one task.

    Attributes:
        precision: (T, R, K, A, M), where nothing is to be found -1.
        recall: (T, K, A, M), the same.
        bounds: (M,) bounds on the detections per image and category, ascending.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    bounds: tuple[int, ...]


def require_evaluator(evaluator: EvaluatorName) -> None:
    """Raises MissingDependencyError where hotcoco is asked for and not installed."""
    if evaluator == "hotcoco":
        try:
            import hotcoco  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError(
                f"TEST.EVALUATOR: hotcoco needs hotcoco, which cannot be imported here ({error}). Install it: "
                "pip install 'hotcoco>=1.3'; or, where there is none for this machine, set TEST.EVALUATOR: "
                "pycocotools (of an exported model: in its config.yaml), which gives the same numbers and takes longer."
            ) from None


def coco_ground_truth(dataset: CocoDataset) -> GroundTruth:
    """A checked data set as ground truth, with `sublabels` and `subcategories` for the metrics of the heads."""
    categories = dataset.categories
    images = {record.id: number for number, record in enumerate(sorted(dataset.records, key=lambda r: r.id), start=1)}
    numbers = {i: number for number, i in enumerate(sorted(categories.ids), start=1)}
    annotations = [
        {
            "image_id": images[record.id],
            "category_id": numbers[categories.ids[annotation.label]],
            "segmentation": annotation.rle(record.height, record.width),
            "bbox": list(annotation.bbox),
            "area": annotation.area,
            "iscrowd": int(annotation.iscrowd),
            "sublabels": annotation.sublabels,
        }
        for record in dataset.records
        for annotation in record.annotations
    ]
    named = zip(categories.ids, categories.names, strict=True)
    return GroundTruth(
        {
            "images": [{"id": images[r.id], "height": r.height, "width": r.width} for r in dataset.records],
            "categories": [{"id": numbers[i], "name": name} for i, name in named],
            "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
            "subcategories": categories.subcategories,
            "image_numbers": images,
            "category_numbers": numbers,
        }
    )


def standard_metrics(
    ground_truth: GroundTruth,
    results: _Entries,
    task: Task = "segm",
    *,
    max_detections: int,
    evaluator: EvaluatorName = "hotcoco",
) -> dict[str, float]:
    """AP and AR in percent, as COCOeval.summarize() prints them; its AP reads maxDets = 100 only, here the largest.

    Args, Raises: of `precision_recall`.

    Returns:
        detectron2's names, behind the task: "segm/AP", "segm/AP50", "segm/AP75", "segm/APs", "segm/APm", "segm/APl",
        "segm/AR<maxDets>" for 1, 10 and the largest bound, "segm/ARs", "segm/ARm", "segm/ARl", and
        "segm/AP-<name>" of every category. NaN where there is no ground truth to measure against (COCO's -1).
    """
    curves = precision_recall(ground_truth, results, task, max_detections=max_detections, evaluator=evaluator)
    return _metrics(curves, task, ground_truth.names)


def precision_recall(
    ground_truth: GroundTruth,
    results: _Entries,
    task: Task = "segm",
    *,
    max_detections: int,
    evaluator: EvaluatorName = "hotcoco",
) -> Curves:
    """Precision at each recall, and the recall that is reached.

    Args:
        results: COCO results with the file's ids: "image_id", "category_id", "score", and the task's "segmentation"
            (compressed RLE) or "bbox" (x, y, width, height in pixels). Of equal scores the first counts as higher.
        max_detections: detections counted per image and category (COCO's largest maxDets).
        evaluator: what matches and counts. Both give the same arrays, to the last bit in all that was tried.

    Raises:
        DatasetError: a result names an image or a category that the ground truth does not have, or an annotation lacks
            what the task compares.
        NonFiniteLossError: a score is NaN, or a box of "bbox" NaN or infinite.
        MissingDependencyError: hotcoco is not installed.
    """
    require_evaluator(evaluator)
    require_results(ground_truth, results, task)
    evaluated = _by_hotcoco if evaluator == "hotcoco" else _by_pycocotools
    bounds = sorted({1, min(10, max_detections), max_detections})
    arrays: Any = evaluated(ground_truth, results, task, bounds).eval
    return Curves(arrays["precision"], arrays["recall"], tuple(bounds))


def error_gains(
    ground_truth: GroundTruth, results: _Entries, task: Task = "segm", *, max_detections: int
) -> dict[str, float]:
    """How far AP50 would rise, in percent points, if one kind of error were mended and nothing else.

    Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors", as hotcoco computes it: each
    detection that is no match at IoU 0.5 has one kind of error, and an annotation that none of them is about is missed.
    It takes some four times as long as the evaluation.

    Args, Raises: of `precision_recall`; hotcoco is needed.

    Returns:
        "classification": on an annotation of another category; "localisation": its IoU with one of its own is from 0.1
        to 0.5; "both": from 0.1 to 0.5 with one of another; "duplicate": the annotation has a match of higher score;
        "background": an IoU below 0.1 with all; "missed": if such annotations were not there, so that a category in
        which nothing is right stays at 0. NaN where there is nothing to find.
    """
    require_evaluator("hotcoco")
    require_results(ground_truth, results, task)
    evaluation = _by_hotcoco(ground_truth, results, task, [max_detections])
    if all(annotation["iscrowd"] for annotation in ground_truth.dataset["annotations"]):
        return dict.fromkeys(_ERRORS, float("nan"))
    gains = evaluation.tide_errors()["delta_ap"]
    return {name: 100.0 * gains[key] for name, key in _ERRORS.items()}


def _metrics(curves: Curves, task: Task, names: Sequence[str]) -> dict[str, float]:
    precision, recall = curves.precision[..., -1], curves.recall  # (T, R, K, A), (T, K, A, M)
    every = AREAS.index("all")
    metrics = {
        "AP": _percent(precision[..., every]),
        **{name: _percent(precision[index, ..., every]) for name, index in _THRESHOLDS.items()},
        **{f"AP{suffix}": _percent(precision[..., AREAS.index(area)]) for area, suffix in _AREA_SUFFIXES.items()},
        **{f"AR{bound}": _percent(recall[:, :, every, m]) for m, bound in enumerate(curves.bounds)},
        **{f"AR{suffix}": _percent(recall[:, :, AREAS.index(area), -1]) for area, suffix in _AREA_SUFFIXES.items()},
        **{f"AP-{name}": _percent(precision[:, :, k, every]) for k, name in enumerate(names)},
    }
    return {f"{task}/{name}": value for name, value in metrics.items()}


def _percent(values: NDArray[np.float64]) -> float:
    """The mean in percent of the settings that have ground truth (the others are -1); NaN if none has."""
    measured = values[values > -1]
    return 100.0 * float(measured.mean()) if measured.size else float("nan")


def require_results(ground_truth: GroundTruth, results: _Entries, task: Task) -> None:
    """Raises what `precision_recall` raises, where the two evaluators would differ or know nothing to say.

    Of a NaN as IoU pycocotools makes a match at every threshold, hotcoco none.
    """
    key = SHAPE[task]
    if lacking := sum(key not in annotation for annotation in ground_truth.dataset["annotations"]):
        raise DatasetError(
            f"{lacking} annotations have no {key!r}, which {task!r} compares. Correct the annotation file."
        )
    cure = "Evaluate against the annotation file whose images were predicted."
    _require_known(results, ground_truth.dataset, "the results", "the ground truth", cure)
    for number, result in enumerate(results, start=1):
        if math.isnan(result["score"]):
            what, why = f"the score {result['score']}", "detections are ranked by their scores, and this has no rank"
        elif task == "bbox" and not all(map(math.isfinite, result["bbox"])):
            what, why = f"the box {result['bbox']}", "it has no intersection with any other"
        else:
            continue
        raise NonFiniteLossError(
            f"result {number} of {len(results)} (image_id {result['image_id']}) has {what}: {why}. The network's "
            "weights or its input are probably not finite."
        )


def _require_known(entries: _Entries, known: Mapping[str, Any], what: str, where: str, cure: str) -> None:
    """Raises DatasetError for ids that evaluators would silently ignore."""
    for key in ("image_id", "category_id"):
        if unknown := sorted({entry[key] for entry in entries} - known[_numbers(key)].keys()):
            named = ", ".join(first_of(unknown, 5))
            raise DatasetError(f"{what} have {len(unknown)} {key} that {where} does not have: {named}. {cure}")


def _numbers(key: str) -> str:
    return f"{key.removesuffix('_id')}_numbers"


def _renumber(entries: Iterable[Mapping[str, Any]], known: Mapping[str, Any]) -> list[dict[str, Any]]:
    images, categories = known["image_numbers"], known["category_numbers"]
    return [{**e, "image_id": images[e["image_id"]], "category_id": categories[e["category_id"]]} for e in entries]


def _rle_of(annotation: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """{"segmentation": the mask as compressed RLE with text}, as COCO.annToRLE makes it; empty where there is none."""
    if "segmentation" not in annotation:
        return {}
    segmentation, image = annotation["segmentation"], images[annotation["image_id"]]
    if isinstance(segmentation, list):
        rle = mask_utils.merge(mask_utils.frPyObjects(segmentation, image["height"], image["width"]))
    elif isinstance(segmentation["counts"], list):
        rle = mask_utils.frPyObjects(segmentation, image["height"], image["width"])
    else:
        rle = segmentation
    counts = rle["counts"]
    text = counts if isinstance(counts, str) else counts.decode("ascii")
    return {"segmentation": {"size": list(rle["size"]), "counts": text}}


def _by_hotcoco(ground_truth: GroundTruth, results: _Entries, task: Task, bounds: list[int]) -> hotcoco.COCOeval:
    """After accumulate(). Results go in as columns and masks: there is no copy of all else that a result holds."""
    import hotcoco

    images, categories = ground_truth.dataset["image_numbers"], ground_truth.dataset["category_numbers"]
    columns = np.zeros((len(results), 7))
    columns[:, 0] = [images[result["image_id"]] for result in results]
    columns[:, 5] = [result["score"] for result in results]
    columns[:, 6] = [categories[result["category_id"]] for result in results]
    if task == "bbox":
        columns[:, 1:5] = np.array([result["bbox"] for result in results]).reshape(-1, 4)
        detections = ground_truth.hotcoco.load_res(columns)
    else:
        masks = [result["segmentation"] for result in results]
        detections = ground_truth.hotcoco.load_res(columns, segmentation=masks)
        # load_res takes the area of the box, also beside a mask
        detections.update_anns(ids=np.arange(1, len(masks) + 1), area=hotcoco.mask.area(masks))
    evaluation = hotcoco.COCOeval(ground_truth.hotcoco, detections, task)
    evaluation.params.max_dets = bounds
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def _by_pycocotools(ground_truth: GroundTruth, results: _Entries, task: Task, bounds: list[int]) -> COCOeval:
    """After accumulate(), without what it prints.

    COCO.loadRes fails on no results at all, and takes the area of the box for "segm" too where a result has one, which
    moves APs, APm and APl.
    """
    detections = _indexed(
        images=ground_truth.dataset["images"],
        categories=ground_truth.dataset["categories"],
        annotations=[
            {**result, "id": number, "area": _area(result, task), "iscrowd": 0}
            for number, result in enumerate(_renumber(results, ground_truth.dataset), start=1)
        ],
    )
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(ground_truth.pycocotools, detections, iouType=task)
        evaluation.params.maxDets = bounds
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


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
