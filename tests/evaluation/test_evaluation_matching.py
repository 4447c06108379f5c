"""Deferred acceptance finds what COCOeval's loop over detections finds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from raytune_m2f.evaluation.matching import NONE, matched
from raytune_m2f.evaluation.overlaps import IOU_THRESHOLDS


def in_a_loop(ious: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(D, T): cocodataset/cocoapi cocoeval.py, evaluateImg, of (D, G) overlaps, the best detection first."""
    order = np.argsort(ignored, kind="mergesort")
    found = np.full((len(ious), len(IOU_THRESHOLDS)), NONE)
    for step, threshold in enumerate(IOU_THRESHOLDS):
        taken: set[int] = set()
        for d, row in enumerate(ious):
            best, at = min(threshold, 1 - 1e-10), NONE
            for g in order.tolist():
                if g in taken and not crowd[g]:
                    continue
                if at != NONE and not ignored[at] and ignored[g]:
                    break
                if row[g] >= best:
                    best, at = row[g], g
            if at != NONE:
                taken.add(at)
                found[d, step] = at
    return found


def at_once(ious: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]) -> NDArray[np.int64]:
    d, g = np.nonzero(ious >= 0.5)
    rows, hits = matched(d, g, ious[d, g], ignored[g], crowd[g])
    found = np.full((len(ious), len(IOU_THRESHOLDS)), NONE)
    found[rows] = hits
    return found


@pytest.mark.parametrize("seed", range(60))
def test_random_overlaps(seed: int) -> None:
    """Few values, so that many are equal; much overlaps, so that rivals are many."""
    rng = np.random.default_rng(seed)
    ious = rng.choice([0.0, 0.5, 0.55, 0.6, 0.75, 0.95, 1.0], (int(rng.integers(1, 12)), int(rng.integers(1, 7))))
    crowd = np.less(rng.random(ious.shape[1]), 0.2)
    ignored = crowd | np.less(rng.random(ious.shape[1]), 0.3)
    assert np.array_equal(at_once(ious, ignored, crowd), in_a_loop(ious, ignored, crowd))


def test_the_better_detection_takes_it_and_the_other_goes_on() -> None:
    ious = np.array([[0.8, 0.0], [0.9, 0.6]])
    none = np.zeros(2, np.bool_)
    assert at_once(ious, none, none)[:, :4].tolist() == [[0, 0, 0, 0], [1, 1, 1, NONE]]  # at 0.50, 0.55, 0.60, 0.65


def test_what_counts_is_found_before_what_does_not_and_a_crowd_by_any_number() -> None:
    ious = np.array([[0.6, 1.0], [0.0, 1.0], [0.0, 1.0]])
    crowd = np.array([False, True])
    assert at_once(ious, crowd, crowd)[:, 0].tolist() == [0, 1, 1]
    assert at_once(ious, crowd, np.zeros(2, np.bool_))[:, 0].tolist() == [0, 1, NONE]


def test_nothing_overlaps() -> None:
    nothing = np.empty(0, np.int64)
    rows, found = matched(nothing, nothing, np.empty(0), np.empty(0, np.bool_), np.empty(0, np.bool_))
    assert (rows.shape, found.shape) == ((0,), (0, len(IOU_THRESHOLDS)))
