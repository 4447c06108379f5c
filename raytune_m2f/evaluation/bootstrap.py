"""The standard error of AP by the bootstrap: how far it would move with other images of the same kind.

The images are drawn again with replacement, and AP is computed as COCOeval would compute it with each image as often as
it was drawn. Matching is done within an image, so COCOeval's own matches serve all draws, and a draw is no more than a
weight of each image. Letters: B draws, I images, D detections of a category, T IoU thresholds, R recall points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools.cocoeval import COCOeval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class _Category:
    """COCOeval's matches of one category, detections by falling score, as COCOeval sorts them."""

    image: Ints  # (D,) number of the image
    copy: Ints  # (D,) -1, or c: the entry counts for images that were drawn more than c times
    right: Bools  # (T, D) true positives; a detection that is neither right nor wrong is ignored
    wrong: Bools  # (T, D) false positives
    truths: Ints  # (I,) annotations to be found in each image


def ap_standard_error(evaluation: COCOeval, draws: int) -> float:
    """The standard error of AP in percent points over so many draws of the images; NaN if fewer than two count.

    Args:
        evaluation: after evaluate(), as `run_cocoeval` gives it; the same gives the same error.
    """
    images = len(evaluation.params.imgIds)
    if images == 0:
        return float("nan")
    counts = np.random.default_rng(0).multinomial(images, [1 / images] * images, size=draws)
    values = ap_of_draws(evaluation, counts)
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def ap_of_draws(evaluation: COCOeval, counts: Ints) -> Floats:
    """(B,): AP in percent where image i counts `counts[b, i]` times; NaN where nothing is to be found.

    Args:
        evaluation: after evaluate().
        counts: (B, I), in the order of the image ids.
    """
    total, measured = np.zeros(len(counts)), np.zeros(len(counts))
    for k in range(len(evaluation.params.catIds)):
        category = _category(evaluation, k, most=int(counts.max(initial=0)))
        if category is None:
            continue
        there = counts @ category.truths > 0
        if there.any():
            total[there] += _category_ap(category, counts[there], evaluation.params.recThrs)
            measured += there
    with np.errstate(invalid="ignore"):
        return 100.0 * total / measured


def _category_ap(category: _Category, counts: Ints, recall_points: Floats) -> Floats:
    """(B,): mean precision over IoU thresholds and recall points; every draw has something to find."""
    truths = counts @ category.truths
    drawn = counts[:, category.image]
    weights = np.where(category.copy < 0, drawn, drawn > category.copy)  # (B, D)
    total = np.zeros(len(counts))
    counted, sums = np.zeros(0, dtype=bool), np.zeros((0, 0))
    for right, wrong in zip(category.right, category.wrong, strict=True):
        # Recall rises at true positives only, and precision, made monotonous, is looked up where recall rises.
        (places,) = np.nonzero(right)
        if not len(places):
            continue
        hits = weights[:, places].cumsum(axis=1).astype(np.float64)
        if not np.array_equal(counted, right | wrong):  # without crowds it is the same at every threshold
            counted = right | wrong
            sums = (weights * counted).cumsum(axis=1).astype(np.float64)
        precision = hits / (sums[:, places] + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.concatenate([envelope, np.zeros((len(counts), 1))], axis=1)  # a recall that is never reached
        recall = hits / truths[:, None]
        for b in range(len(counts)):
            total[b] += padded[b, np.searchsorted(recall[b], recall_points, side="left")].mean()
    return total / len(category.right)


def _category(evaluation: COCOeval, k: int, most: int) -> _Category | None:
    """Category number k, in all areas, at the largest maxDets, each image drawn `most` times at most; None without."""
    params = evaluation.params
    images = len(params.imgIds)
    start = (k * len(params.areaRng) + params.areaRngLbl.index("all")) * images
    truths = np.zeros(images, dtype=np.int64)
    parts = []
    for number, image in enumerate(evaluation.evalImgs[start : start + images]):
        if image is None:
            continue
        truths[number] = np.count_nonzero(np.asarray(image["gtIgnore"]) == 0)
        scores = np.asarray(image["dtScores"], dtype=np.float64)
        index, copy = _repeated_ties(scores, most)
        matched, ignored = image["dtMatches"][:, index] > 0, image["dtIgnore"][:, index] > 0
        parts.append((scores[index], np.full(len(index), number), copy, matched & ~ignored, ~matched & ~ignored))
    if not parts:
        return None
    scores, number_of, copy, right, wrong = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="mergesort")
    return _Category(number_of[order], copy[order], right[:, order], wrong[:, order], truths)


def _repeated_ties(scores: Floats, most: int) -> tuple[Ints, Ints]:
    """Indices into an image's falling scores, and the copy of each.

    An image that is drawn twice has its detections of equal score in the order a b a b, not a a b b: such ones are
    repeated. All others are there once, as copy -1, and are weighted.
    """
    _, group, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    tied = sizes[group] > 1
    index = np.repeat(np.arange(len(scores)), np.where(tied, most, 1))
    copies = [np.arange(most) if tie else np.array([-1]) for tie in tied]
    copy = np.concatenate([np.empty(0, dtype=np.int64), *copies])
    order = np.lexsort((index, copy, -scores[index]))
    return index[order], copy[order]
