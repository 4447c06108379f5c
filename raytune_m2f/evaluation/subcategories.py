"""What each subcategory head gets right, on the instances that were found.

A head is judged apart from detection: only where a prediction meets an annotation of its main category with a mask IoU
of 0.5 or more, in the very pairs that COCO makes for AP50 (best score first, each annotation once). So these numbers
say nothing of what was not found: they stand beside the coverage, and beside what the most frequent class would get.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raytune_m2f.evaluation.overlaps import Floats, Found, Ints, Truths
from raytune_m2f.evaluation.ranked import Ranked, summed
from raytune_m2f.model import UNKNOWN

OF_FOUND_ALONE = ("accuracy", "majority", "balanced_accuracy", "macro_f1")
"""Measures of a head that say nothing of what was not found."""


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
    def majority(self) -> str | None:
        """The most frequent class among the found instances; None where none was found."""
        return self.classes[int(self.confusion.sum(1).argmax())] if self.matched else None

    @property
    def measures(self) -> dict[str, float]:
        """`head_measures` of its confusion table."""
        table, labelled = self.confusion[..., None].astype(np.float64), np.array([float(self.labelled)])
        return {name: float(values[0]) for name, values in head_measures(table, labelled).items()}


def head_measures(confusion: Floats, labelled: Floats) -> dict[str, Floats]:
    """(B,) each, in percent, of B confusion tables (C, C, B) with (B,) labelled annotations.

    Nothing found is 0, not NaN: an untrained network is a bad one, not a broken one.

    Returns:
        "accuracy": of the found instances, those whose class is right.
        "majority": what the most frequent class among them would get.
        "balanced_accuracy": percent right of each class that was found, mean over these; one class for all would get
            100 / their number.
        "macro_f1": harmonic mean of precision and recall of each class, mean over the classes that were found or said.
        "coverage": of the labelled annotations, those that were found.
        "found_and_right": of the labelled annotations, those that were found and whose class is right.
    """
    right = np.einsum("iib->ib", confusion)
    there, said = confusion.sum(1), confusion.sum(0)
    found = there.sum(0)
    classes = np.maximum((there > 0).sum(0), 1)
    recall = right / np.maximum(there, 1)
    f1 = 2 * right / np.maximum(there + said, 1)
    named = np.maximum((there + said > 0).sum(0), 1)
    return {
        "accuracy": 100 * right.sum(0) / np.maximum(found, 1),
        "majority": 100 * there.max(0, initial=0) / np.maximum(found, 1),
        "balanced_accuracy": 100 * recall.sum(0) / classes,
        "macro_f1": 100 * f1.sum(0) / named,
        "coverage": 100 * found / np.maximum(labelled, 1),
        "found_and_right": 100 * right.sum(0) / np.maximum(labelled, 1),
    }


@dataclass(frozen=True)
class HeadMatches:
    """Where a head was asked: M matched and labelled instances, and the images of all that are labelled.

    Attributes:
        classes: names of its C classes.
        image, truth, said: (M,) image, and the class in the ground truth and in the prediction.
        labelled: (L,) the image of each labelled annotation.
    """

    classes: tuple[str, ...]
    image: Ints
    truth: Ints
    said: Ints
    labelled: Ints

    def evaluation(self) -> HeadEvaluation:
        C = len(self.classes)
        confusion = np.bincount(self.truth * C + self.said, minlength=C * C).reshape(C, C)
        return HeadEvaluation(self.classes, len(self.labelled), confusion)

    def values(self, weights: Floats) -> dict[str, Floats]:
        """`head_measures` for each weighting (I, B) of the images."""
        C = len(self.classes)
        confusion = summed(self.truth * C + self.said, self.image, C * C, weights)
        return head_measures(confusion.reshape(C, C, -1), weights[self.labelled].sum(0))


def head_matches(truths: Truths, found: Found, ranked: Ranked) -> dict[str, HeadMatches]:
    """Every head of the ground truth, by the matches at an IoU of 0.5 of `ranked`, the main categories."""
    hit = ranked.found[:, 0]
    matched = np.flatnonzero(ranked.right[:, 0])
    detection, annotation = ranked.detection[matched], hit[matched]
    heads: dict[str, HeadMatches] = {}
    for head, names in truths.heads.items():
        labels = truths.sublabels[head]
        known = labels[annotation] != UNKNOWN
        heads[head] = HeadMatches(
            classes=names,
            image=found.image[detection[known]],
            truth=labels[annotation[known]],
            said=found.probabilities[head][detection[known]].argmax(1),
            labelled=truths.image[(labels != UNKNOWN) & ~truths.crowd],
        )
    return heads


def head_metrics(heads: Mapping[str, HeadEvaluation]) -> dict[str, float]:
    """ "<head>/accuracy" ... of `head_measures`, where an annotation is labelled; "<head>/matched"."""
    metrics: dict[str, float] = {}
    for name, head in heads.items():
        if head.labelled:
            metrics |= {f"{name}/{measure}": value for measure, value in head.measures.items()}
        metrics[f"{name}/matched"] = float(head.matched)
    return metrics
