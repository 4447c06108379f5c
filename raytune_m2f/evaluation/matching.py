"""Which detection finds which annotation: COCO's greedy assignment, of a whole dataset at once.

In COCOeval every detection, best score first, takes the annotation that it overlaps most among those that no better one
has taken; those that do not count (crowds, other sizes, unknown labels) only if none that counts is left. That is a
stable matching in which all annotations rank the detections alike, which is unique and which deferred acceptance finds
(Gale and Shapley 1962): all detections ask at once, annotations keep the best one that asked, the others ask on. It
takes as many rounds as there are rivals for an annotation, instead of a loop over images, classes and detections.

Letters: E overlapping pairs, T IoU thresholds.
"""

from __future__ import annotations

import numpy as np

from raytune_m2f.evaluation.overlaps import IOU_THRESHOLDS, Bools, Floats, Ints

NONE = -1


def matched(detection: Ints, truth: Ints, iou: Floats, ignored: Bools, crowd: Bools) -> tuple[Ints, Ints]:
    """Which detections find something, and the annotation that each finds at each threshold.

    Args:
        detection: (E,) the better ones of a class have lower numbers; those of other classes share no `truth`.
        truth: (E,) numbers of annotations; of equal overlaps a detection takes the last one.
        iou: (E,) 0.5 or more.
        ignored: (E,) whether the annotation does not count.
        crowd: (E,) whether any number of detections may take it.

    Returns:
        (R,) the detections of `detection`, ascending, and (R, T) annotations, `NONE` (-1) without.
    """
    T = len(IOU_THRESHOLDS)
    rows, row = np.unique(detection, return_inverse=True)
    order = np.lexsort((-truth, -iou, ignored, row))  # a detection's favourites first
    step, edge = np.nonzero((iou[order, None] >= np.minimum(IOU_THRESHOLDS, 1 - 1e-10)).T)
    edge = order[edge]
    # Who asks is a detection at a threshold; its edges lie side by side. Of two at a threshold the lower is the better.
    asking, first = np.unique(step * len(rows) + row[edge], return_index=True)
    last = np.append(first[1:], len(edge))
    _, wanted = np.unique(step * (int(truth.max(initial=0)) + 1) + truth[edge], return_inverse=True)
    nobody = len(asking)
    holder = np.full(int(wanted.max(initial=-1)) + 1, nobody)
    at, free, active = first.copy(), crowd[edge], np.arange(nobody)
    while len(active):
        active = active[~free[at[active]]]
        asked = wanted[at[active]]
        before = holder[asked]
        np.minimum.at(holder, asked, active)
        refused = active[holder[asked] != active]
        replaced = np.unique(before[(before != nobody) & (holder[asked] != before)])
        active = np.concatenate([refused, replaced])
        at[active] += 1
        active = active[at[active] < last[active]]
    found = np.full(T * len(rows), NONE, np.int64)
    successful = at < last
    found[asking[successful]] = truth[edge[at[successful]]]
    return rows, found.reshape(T, len(rows)).T
