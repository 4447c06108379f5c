"""What is left of an image once its masks have been compared with the ground truth: scores, labels and overlaps.

That is all that matching, AP and every other metric needs, in a few kilobytes; masks can go.

Letters: D detections, G annotations of the whole dataset (crowds included), E pairs of them that overlap.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

Task = Literal["segm", "bbox"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU_THRESHOLDS: Floats = np.linspace(0.5, 0.95, 10)
"""COCO's; T in shapes."""
AT_ONCE = 200
"""Masks: pycocotools 2.0.11 with numpy 2 fails on more than 255 in a call of `area`."""
SHAPE: dict[Task, str] = {"segm": "segmentation", "bbox": "bbox"}


@dataclass(frozen=True)
class Truths:
    """The ground truth of a dataset, numbered from 0: images in the order of their ids, as categories are.

    Attributes:
        images, categories: the number of each id of the file.
        heads: names of each subcategory head's classes.
        image, label, area: (G,) of each annotation; areas in pixels.
        crowd: (G,) bool.
        sublabels: for each head (G,), `UNKNOWN` (-1) where it is not given.
        by_image: for each image its annotations.
        shapes: for each task the mask (RLE) or box (x, y, width, height) of each annotation.
    """

    images: Mapping[int, int]
    categories: Mapping[int, int]
    heads: Mapping[str, tuple[str, ...]]
    image: Ints
    label: Ints
    area: Floats
    crowd: Bools
    sublabels: dict[str, Ints]
    by_image: list[Ints]
    shapes: dict[Task, list[Any]]

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Truths:
        """From the content of a `GroundTruth`."""
        entries = content["annotations"]
        heads = {head: tuple(names) for head, names in content.get("subcategories", {}).items()}
        image = np.array([entry["image_id"] - 1 for entry in entries], np.int64)
        order = np.argsort(image, kind="stable")
        return cls(
            images={i: number - 1 for i, number in content["image_numbers"].items()},
            categories={i: number - 1 for i, number in content["category_numbers"].items()},
            heads=heads,
            image=image,
            label=np.array([entry["category_id"] - 1 for entry in entries], np.int64),
            area=np.array([entry["area"] for entry in entries], np.float64),
            crowd=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], np.bool_),
            sublabels={h: np.array([entry["sublabels"][h] for entry in entries], np.int64) for h in heads},
            by_image=np.split(order, np.searchsorted(image[order], np.arange(1, len(content["image_numbers"])))),
            shapes={task: [entry.get(key) for entry in entries] for task, key in SHAPE.items()},
        )


@dataclass(frozen=True)
class Found:
    """Detections, each image's in the order of the results, and where they overlap with annotations.

    Only those count that COCO counts: the best `max_detections` of an image and category.

    Attributes:
        image, label, score, area: (D,); areas in pixels.
        place: (D,) rank within its image and category, from 0.
        probabilities: for each head (D, C_k), which add up to 1: "no object" is left out.
        detection, truth: (E,) annotations of the same image and category with which a detection has an IoU of 0.5 at
            least, or for crowds so much of itself within.
        iou: (E,).
    """

    image: Ints
    label: Ints
    score: Floats
    area: Floats
    place: Ints
    probabilities: dict[str, Floats]
    detection: Ints
    truth: Ints
    iou: Floats

    @classmethod
    def in_image(
        cls, truths: Truths, image: int, results: Sequence[Mapping[str, Any]], *, task: Task, max_detections: int
    ) -> Found:
        """The results of image number `image`."""
        label = np.array([truths.categories[result["category_id"]] for result in results], np.int64)
        score = np.array([result["score"] for result in results], np.float64)
        place = _places(label, score)
        kept = np.flatnonzero(place < max_detections)
        results = [results[i] for i in kept.tolist()]
        label, shapes = label[kept], [result[SHAPE[task]] for result in results]
        annotations = truths.by_image[image] if shapes else np.empty(0, np.int64)
        detection, truth, iou = _overlaps(truths, annotations, label, shapes, task)
        return cls(
            image=np.full(len(kept), image, np.int64),
            label=label,
            score=score[kept],
            area=_areas(shapes, task),
            place=place[kept],
            probabilities={
                head: _normalised([result[f"{head}_probabilities"] for result in results], len(names))
                for head, names in truths.heads.items()
            },
            detection=detection,
            truth=truth,
            iou=iou,
        )

    @classmethod
    def joined(cls, parts: Sequence[Found], truths: Truths) -> Found:
        """Those of several images, in the order of the images."""
        nothing = cls.in_image(truths, 0, [], task="segm", max_detections=0)
        parts = [nothing, *sorted(parts, key=lambda part: part.image[:1].tolist())]
        starts = np.cumsum([0, *(len(part.image) for part in parts[:-1])])
        return cls(
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("image", "label", "score", "area", "place", "truth", "iou")
            },
            probabilities={
                head: np.concatenate([part.probabilities[head] for part in parts]) for head in parts[0].probabilities
            },
            detection=np.concatenate([part.detection + start for part, start in zip(parts, starts, strict=True)]),
        )


def found_in(
    truths: Truths, results: Sequence[Mapping[str, Any]], *, task: Task = "segm", max_detections: int
) -> Found:
    """`Found` of the results of a whole dataset, whose images, categories and heads the ground truth must have."""
    by_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        by_image[truths.images[result["image_id"]]].append(result)
    parts = [
        Found.in_image(truths, image, found, task=task, max_detections=max_detections)
        for image, found in by_image.items()
    ]
    return Found.joined(parts, truths)


def _places(label: Ints, score: Floats) -> Ints:
    """Rank of each detection of an image among those of its category; of equal scores the first one is better."""
    order = np.lexsort((-score, label))
    start = np.searchsorted(label[order], label[order])
    place = np.empty_like(label)
    place[order] = np.arange(len(label)) - start
    return place


def _overlaps(
    truths: Truths, annotations: Ints, label: Ints, shapes: Sequence[Any], task: Task
) -> tuple[Ints, Ints, Floats]:
    """`detection`, `truth` and `iou` of an image."""
    parts: list[tuple[Ints, Ints, Floats]] = []
    for category in np.intersect1d(label, truths.label[annotations]):
        here = np.flatnonzero(label == category)
        there = annotations[truths.label[annotations] == category]
        ious: Floats = mask_utils.iou(
            [shapes[i] for i in here.tolist()],
            [truths.shapes[task][i] for i in there.tolist()],
            truths.crowd[there].astype(np.uint8).tolist(),
        )
        d, g = np.nonzero(ious >= IOU_THRESHOLDS[0])
        parts.append((here[d], there[g], ious[d, g]))
    empty = np.empty(0, np.int64)
    detection, truth, iou = zip((empty, empty, np.empty(0)), *parts, strict=True)
    return np.concatenate(detection), np.concatenate(truth), np.concatenate(iou)


def _areas(shapes: Sequence[Any], task: Task) -> Floats:
    """(D,) in pixels."""
    if task == "bbox":
        return np.array([width * height for _, _, width, height in shapes], np.float64)
    parts = [mask_utils.area(shapes[at : at + AT_ONCE]) for at in range(0, len(shapes), AT_ONCE)]
    return np.concatenate([np.empty(0), *parts])


def _normalised(probabilities: Sequence[Sequence[float]], classes: int) -> Floats:
    """(D, C): without "no object" they add up to less than 1, in float32 even to 0: then all are the same."""
    given = np.array(probabilities, np.float64).reshape(-1, classes)
    total = given.sum(1, keepdims=True)
    return np.where(total > 0, given, 1.0) / np.where(total > 0, total, classes)
