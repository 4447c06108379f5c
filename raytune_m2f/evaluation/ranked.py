"""AP and AR of ranked detections, for any weights of the images: all 1 is the metric itself, others are a bootstrap's.

Matching is done within an image, so it is done once. An image that counts w times has each of its detections and
annotations w times: precision and recall are sums of weights. (COCO, cocodataset/cocoapi cocoeval.py, accumulate: mean
over classes, IoU thresholds and 101 recall points of the highest precision at that recall or a higher one.)

Letters: N candidates, K classes, I images, B weightings of the images, T IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from raytune_m2f.evaluation.matching import NONE, matched
from raytune_m2f.evaluation.overlaps import Bools, Floats, Found, Ints, Truths

RECALL_POINTS: Floats = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Classes:
    """What annotations are matched as: K classes, each of one main category.

    Attributes:
        count: K.
        first: (categories + 1,) the classes of category c are number first[c] to first[c + 1] - 1.
        truth: (G,) the class of each annotation that counts; `NONE` (-1) for those that do not.
        may_be: (G, n) bool, n the most classes of a category: which of its category's classes an annotation that does
            not count may be of: there it is ignored.
        crowd: (G,) bool: any number of detections may find it.
    """

    count: int
    first: Ints
    truth: Ints
    may_be: Bools
    crowd: Bools


@dataclass(frozen=True)
class Ranked:
    """The R candidates of K classes that find something at some threshold, those of a class side by side, best first;
    how many others there are between them; and what there is to find.

    Attributes:
        images, classes: I and K.
        image, klass: (R,).
        before: (R, I) sparse: how many candidates of each image, between this one and the one before it in its class,
            find nothing and are wrong. Behind the last one of a class they do not matter.
        detection, place: (R,) the detection that each is, and its rank within its image and category.
        found: (R, T) the annotation that it finds, `NONE` without, whether it counts or not.
        right, wrong: (R, T) bool; what is neither is ignored.
        truth_image, truth_class: (G',) of the annotations that count.
    """

    images: int
    classes: int
    image: Ints
    klass: Ints
    before: Any
    detection: Ints
    place: Ints
    found: Ints
    right: Bools
    wrong: Bools
    truth_image: Ints
    truth_class: Ints

    @classmethod
    def joined(cls, parts: Sequence[Ranked]) -> Ranked:
        """Candidates of the same classes, no class in two parts, in the order of the classes."""
        names = ("image", "klass", "detection", "place", "found", "right", "wrong")
        rows: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return replace(parts[0], before=sparse.vstack([part.before for part in parts], format="csr"), **rows)

    def truths(self, weights: Floats) -> Floats:
        """(K, B): the weight of what there is to find."""
        return summed(self.truth_class, self.truth_image, self.classes, weights)

    def recall(self, weights: Floats, most: int) -> Floats:
        """(K, B): recall of the best `most` detections of each image and category, mean over IoU thresholds; NaN
        without anything to find."""
        row, _ = np.nonzero(self.right & (self.place < most)[:, None])
        hits = summed(self.klass[row], self.image[row], self.classes, weights)
        with np.errstate(invalid="ignore"):
            return np.asarray(hits / (self.truths(weights) * self.right.shape[1]))

    def precision(self, weights: Floats, steps: slice = slice(None)) -> Floats:
        """(K, B): AP of each class, mean over IoU thresholds (or those of `steps`); NaN without anything to find.

        Args:
            weights: (I, B).
        """
        truths = self.truths(weights)
        total = np.zeros_like(truths)
        klass, drawn = self.klass, weights[self.image]
        start = np.searchsorted(klass, np.arange(self.classes + 1))
        so_far = _cumulative(self.before @ weights + drawn, start)  # candidates, the row itself included
        for right, wrong in zip(self.right.T[steps], self.wrong.T[steps], strict=True):
            row = np.flatnonzero(right)
            hits = _cumulative(drawn[row], np.searchsorted(row, start))
            counted = so_far[row]
            if len(ignored := np.flatnonzero(~right & ~wrong)):
                sums = np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(drawn[ignored], axis=0)])
                begin = start[klass[row]]
                counted -= sums[np.searchsorted(ignored, row)] - sums[np.searchsorted(ignored, begin)]
            total += _areas(hits, counted, klass[row], truths)
        with np.errstate(invalid="ignore"):
            return np.where(truths > 0, total / self.right[:, steps].shape[1], np.nan)


def rank(
    found: Found,
    classes: Classes,
    truths: Truths,
    *,
    detection: Ints,
    klass: Ints,
    score: Floats,
    outside: Bools | None = None,
) -> Ranked:
    """Rank and match candidates.

    Args:
        detection, klass, score: (N,): each detection, ascending, as each class that it may be of.
        outside: (D,) detections of a size that is not asked for: ignored unless they find something.
    """
    order = np.lexsort((-score, klass))
    detection, klass = detection[order], klass[order]
    candidate, truth, iou = _edges(found, classes, detection, klass)
    G = len(classes.truth)
    row, hit = matched(
        candidate,
        truth + G * klass[candidate],  # each class has its own copy of what it ignores
        iou,
        classes.truth[truth] == NONE,
        classes.crowd[truth],
    )
    hit = np.where(hit == NONE, NONE, hit % max(G, 1))
    plain = np.ones(len(detection), np.bool_) if outside is None else ~outside[detection]
    wrong = (hit == NONE) & plain[row, None]
    plain[row] = False
    images, others = len(truths.by_image), np.flatnonzero(plain)
    after = np.searchsorted(row, others)
    matter = after < len(row)
    matter[matter] = klass[row[after[matter]]] == klass[others[matter]]
    image = found.image[detection]
    counted = np.flatnonzero(classes.truth != NONE)
    return Ranked(
        images=images,
        classes=classes.count,
        image=image[row],
        klass=klass[row],
        before=_counts(after[matter], image[others[matter]], (len(row), images)),
        detection=detection[row],
        place=found.place[detection[row]],
        found=hit,
        right=(hit != NONE) & (classes.truth[hit] != NONE) if G else np.zeros_like(wrong),
        wrong=wrong,
        truth_image=truths.image[counted],
        truth_class=classes.truth[counted],
    )


def _edges(found: Found, classes: Classes, detection: Ints, klass: Ints) -> tuple[Ints, Ints, Floats]:
    """Which candidates may find which annotations, with their IoU: the overlaps of their detections that the class of
    the candidate has, be it as what counts or as what is ignored."""
    many = np.diff(classes.first).max(initial=1)
    place = np.full((len(found.label), many), NONE, np.int64)  # of each detection and class of its category
    place[detection, klass - classes.first[found.label[detection]]] = np.arange(len(detection))
    E, own = np.arange(len(found.truth)), classes.truth[found.truth]
    counts = own != NONE
    local = own - classes.first[found.label[found.detection]]
    ignoring, ignored_as = np.nonzero(classes.may_be[found.truth])
    edge = np.concatenate([E[counts], ignoring])
    candidate = place[found.detection[edge], np.concatenate([local[counts], ignored_as])]
    there = candidate != NONE
    edge = edge[there]
    return candidate[there], found.truth[edge], found.iou[edge]


def _areas(hits: Floats, counted: Floats, klass: Ints, truths: Floats) -> Floats:
    """(K, B): precision made monotonous, mean over the recall points; (n, B) right ones of those counted so far."""
    total = np.zeros_like(truths)
    if not len(hits):
        return total
    precision = hits / (counted + np.spacing(1))
    # From the last candidate to the first the highest so far, anew in each class: each lies 2 above the one after.
    lift = 2.0 * (len(truths) - klass)[:, None]
    envelope = np.maximum.accumulate((precision + lift)[::-1], axis=0)[::-1] - lift
    with np.errstate(invalid="ignore"):
        recall = hits / truths[klass]
    reached = np.searchsorted(RECALL_POINTS, recall, side="right")
    there, start = np.unique(klass, return_index=True)
    gained = np.diff(reached, axis=0, prepend=0)
    gained[start] = reached[start]
    total[there] = np.add.reduceat(envelope * gained, start, axis=0) / len(RECALL_POINTS)
    return total


def _cumulative(values: Floats, start: Ints) -> Floats:
    """(R, B): sums from the first row of each class on; the classes' rows begin at `start`."""
    sums = np.cumsum(values, axis=0)
    before = np.concatenate([np.zeros((1, values.shape[1])), sums])[start[:-1]]
    return np.asarray(sums - np.repeat(before, np.diff(start), axis=0))


def summed(row: Ints, image: Ints, rows: int, weights: Floats) -> Floats:
    """(rows, B): the weights (I, B) of the images of each row's entries, added up."""
    return np.asarray(_counts(row, image, (rows, len(weights))) @ weights)


def _counts(row: Ints, image: Ints, shape: tuple[int, int]) -> Any:
    return sparse.csr_array((np.ones(len(row)), (row, image)), shape=shape)
