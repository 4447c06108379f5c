"""Joint AP: instances whose category *and* subcategory are right (PACO, Ramanathan et al. 2023, section 5; its code:
facebookresearch/paco, paco_eval_api/eval.py, evaluate_img_attr). docs/evaluation.md has the rule with examples.

A class is a category with a label of each head in question: (apple, ripe). It is a COCO category like any other, with

- the annotations that have these labels as what there is to find;
- every detection of the category as a candidate, whose score is its own times the probabilities of these labels;
- annotations ignored that may be of the class, for a label of theirs is not known, and crowds of the category.

Letters: K classes, of those that occur; D detections, G annotations, T IoU thresholds, I images, B weightings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching

from raytune_m2f.evaluation.matching import NONE
from raytune_m2f.evaluation.overlaps import IOU_THRESHOLDS, Bools, Floats, Found, Ints, Truths
from raytune_m2f.evaluation.ranked import RECALL_POINTS, Classes, Ranked, rank, summed
from raytune_m2f.model import UNKNOWN


@dataclass(frozen=True)
class JointAP:
    """The candidates of all pairs (or tuples) of categories and labels.

    Attributes:
        joint: ranked by score times probability.
        lower: by the score alone: what a head that says nothing would get. A head that is worse than nothing (labels
            swapped, say) is below it.
        reachable: (G', T) bool, of the annotations that count: whether it is found if as many are as can be.
    """

    joint: Ranked
    lower: Ranked
    reachable: Bools

    def values(self, weights: Floats) -> dict[str, Floats]:
        """(K, B) each: AP "joint", "lower" and "upper"; no head can be above "upper", where what is right comes first
        and as many are right as can be: it has the labels from the ground truth."""
        return {
            "joint": self.joint.precision(weights),
            "lower": self.lower.precision(weights),
            "upper": self._upper(weights),
        }

    def _upper(self, weights: Floats) -> Floats:
        ranked, truths = self.joint, self.joint.truths(weights)
        total = np.zeros_like(truths)
        with np.errstate(invalid="ignore"):
            for reached in self.reachable.T:
                hits = summed(ranked.truth_class[reached], ranked.truth_image[reached], ranked.classes, weights)
                some = hits > 0  # without a candidate that is right, not even the recall of 0 is reached
                total += some * np.searchsorted(RECALL_POINTS, hits / truths, side="right") / len(RECALL_POINTS)
            return np.where(truths > 0, total / self.reachable.shape[1], np.nan)


def joint_ap(truths: Truths, found: Found, heads: Sequence[str]) -> JointAP:
    """The joint AP of a category with these heads."""
    classes, labels = _classes(truths, heads)
    joint, lower = [], []
    for category in range(len(truths.categories)):  # one at a time: there are as many candidates as labels a detection
        own = np.arange(classes.first[category], classes.first[category + 1])
        one = np.flatnonzero(found.label == category)
        detection, klass = np.repeat(one, len(own)), np.tile(own, len(one))
        score = found.score[detection]
        probability = np.ones(len(detection))
        for head, of_class in zip(heads, labels.T, strict=True):
            probability *= found.probabilities[head][detection, of_class[klass]]
        likely = probability > 0  # who says that it is surely not of a class is no detection of it
        lower.append(rank(found, classes, truths, detection=detection, klass=klass, score=score))
        detection, klass, score = detection[likely], klass[likely], (score * probability)[likely]
        joint.append(rank(found, classes, truths, detection=detection, klass=klass, score=score))
    reachable = _reachable(found, classes)[classes.truth != NONE]
    return JointAP(Ranked.joined(joint), Ranked.joined(lower), reachable)


def _classes(truths: Truths, heads: Sequence[str]) -> tuple[Classes, Ints]:
    """The classes that occur, sorted by category, and (K, heads) the label of each head that they stand for."""
    sublabels = np.stack([truths.sublabels[head] for head in heads], axis=1)
    known = (sublabels != UNKNOWN).all(1) & ~truths.crowd
    rows, own = np.unique(np.column_stack([truths.label, sublabels])[known], axis=0, return_inverse=True)
    truth = np.full(len(known), NONE, np.int64)
    truth[known] = own.reshape(-1)
    first = np.searchsorted(rows[:, 0], np.arange(len(truths.categories) + 1))
    may_be = np.zeros((len(known), np.diff(first).max(initial=0)), np.bool_)
    for annotation in np.flatnonzero(~known):
        label = truths.label[annotation]
        given, labels = sublabels[annotation], rows[first[label] : first[label + 1], 1:]
        fits = ((given == UNKNOWN) | (given == labels)).all(1) | truths.crowd[annotation]
        may_be[annotation, : len(fits)] = fits
    return Classes(len(rows), first, truth, may_be, truths.crowd), rows[:, 1:]


def _reachable(found: Found, classes: Classes) -> Bools:
    """(G, T): whether an annotation is found in a largest matching of the detections with what each class has."""
    counts = classes.truth[found.truth] != NONE
    truth, iou = found.truth[counts], found.iou[counts]
    # a detection is a candidate of each class of its category: one row each
    _, row = np.unique(np.stack([found.detection[counts], classes.truth[truth]]), axis=1, return_inverse=True)
    row = row.reshape(-1)
    reached = np.zeros((len(classes.truth), len(IOU_THRESHOLDS)), np.bool_)
    for step, threshold in enumerate(np.minimum(IOU_THRESHOLDS, 1 - 1e-10)):
        enough = iou >= threshold
        if enough.any():
            shape = (int(row.max()) + 1, len(classes.truth))
            graph = sparse.csr_array((np.ones(enough.sum()), (row[enough], truth[enough])), shape=shape)
            partner = maximum_bipartite_matching(sparse.csr_matrix(graph), perm_type="row")
            reached[partner != NONE, step] = True
    return reached
