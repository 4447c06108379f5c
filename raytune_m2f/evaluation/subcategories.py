"""What each subcategory head gets right, on the instances that were found.

A head is judged apart from detection: only where a prediction meets an annotation of its main category with a mask IoU
of 0.5 or more, in the very pairs that COCOeval makes for AP50 (best score first, each annotation once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

from raytune_m2f.model import UNKNOWN


@dataclass(frozen=True)
class HeadEvaluation:
    """One subcategory head on the matched instances.

    Attributes:
        classes: names of its C classes.
        labelled: how many annotations, matched or not, give this subcategory (crowds left out).
        confusion: (C, C) int64, rows ground truth, columns predicted, of the matched instances that are labelled.
    """

    classes: tuple[str, ...]
    labelled: int
    confusion: NDArray[np.int64]

    @property
    def matched(self) -> int:
        """How many labelled instances were found."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float:
        """Percent of the found instances whose subcategory is right; 0 where none was found."""
        return 100.0 * float(np.trace(self.confusion)) / max(self.matched, 1)

    @property
    def balanced_accuracy(self) -> float:
        """Percent right of each class, averaged over the classes of the found instances; 0 where none was found.

        To say always the same class is 100 / classes, however frequent it is.
        """
        found = self.confusion.sum(1)
        recall = np.diagonal(self.confusion)[found > 0] / found[found > 0]
        return 100.0 * float(recall.mean()) if len(recall) else 0.0


def evaluate_heads(evaluation: COCOeval, results: Sequence[Mapping[str, Any]]) -> dict[str, HeadEvaluation]:
    """Judge every head of the ground truth.

    Args:
        evaluation: from `run_cocoeval` with a ground truth of `coco_ground_truth` and these `results`.
        results: COCO results that hold the predicted index of each head under its name.
    """
    ground_truth = evaluation.cocoGt
    heads: dict[str, tuple[str, ...]] = ground_truth.dataset.get("subcategories", {})
    pairs = [(ground_truth.anns[g]["sublabels"], results[d - 1]) for g, d in _matches(evaluation)]
    regular = [annotation for annotation in ground_truth.anns.values() if not annotation["iscrowd"]]
    return {
        name: HeadEvaluation(
            classes=tuple(classes),
            labelled=sum(annotation["sublabels"][name] != UNKNOWN for annotation in regular),
            confusion=_confusion([(truth[name], result[name]) for truth, result in pairs], len(classes)),
        )
        for name, classes in heads.items()
    }


def head_metrics(heads: Mapping[str, HeadEvaluation]) -> dict[str, float]:
    """ "<head>/accuracy" and "<head>/balanced_accuracy" in percent, where an annotation is labelled; "<head>/matched".

    Nothing found is an accuracy of 0, not NaN: an untrained network is a bad one, not a broken one.
    """
    metrics: dict[str, float] = {}
    for name, head in heads.items():
        if head.labelled:
            metrics[f"{name}/accuracy"] = head.accuracy
            metrics[f"{name}/balanced_accuracy"] = head.balanced_accuracy
        metrics[f"{name}/matched"] = float(head.matched)
    return metrics


def _matches(evaluation: COCOeval) -> list[tuple[int, int]]:
    """(annotation id, detection id) of every match at IoU 0.5, all areas, largest maxDets; crowds left out."""
    every_area = evaluation.params.areaRng[evaluation.params.areaRngLbl.index("all")]
    return [
        (int(annotation_id), detection_id)
        for image in evaluation.evalImgs
        if image is not None and image["aRng"] == every_area
        for annotation_id, detection_id, ignored in zip(
            image["dtMatches"][0], image["dtIds"], image["dtIgnore"][0], strict=True
        )
        if annotation_id > 0 and not ignored
    ]


def _confusion(pairs: Sequence[tuple[int, int]], classes: int) -> NDArray[np.int64]:
    table = np.zeros((classes, classes), dtype=np.int64)
    for pair in pairs:
        table[pair] += pair[0] != UNKNOWN
    return table
