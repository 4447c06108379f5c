"""Sieves of instances: what MODEL.MASK_FORMER.TEST leaves out of an image's predictions.

Those of probabilities act on pairs of query and category before masks are made (`model.inference.Choice`); duplicates
are found here, on masks as run lengths.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as mask_utils

from raytune_m2f.config.fields.model import MaskFormerTest
from raytune_m2f.data.masks import Rle
from raytune_m2f.model import Choice, PackedInstances

ROWS_AT_ONCE = 256
"""Masks that are compared with all worse ones at once: the intersections of thousands would fill the memory."""


def choice_of(test: MaskFormerTest, *, one_label: bool = True) -> Choice:
    """What the network's pairs of query and category are chosen by.

    Args:
        one_label: whether class-agnostic suppression leaves a query its best category alone. All others have the same
            mask, so that `without_duplicates` would drop them; so they take no place among TEST.DETECTIONS_PER_IMAGE.
    """
    return Choice(
        ranking=test.RANKING,
        class_threshold=test.CLASS_THRESHOLD,
        subcategory_threshold=test.SUBCATEGORY_THRESHOLD,
        drop_no_object=test.DROP_NO_OBJECT,
        one_label=one_label and test.NMS_THRESHOLD < 1 and test.NMS_CLASS_AGNOSTIC,
    )


def without_duplicates(found: PackedInstances[Rle], test: MaskFormerTest) -> PackedInstances[Rle]:
    """The instances, best first, whose mask is no better one's: non-maximum suppression.

    Args:
        test: NMS_THRESHOLD, masks are one from a larger intersection over union on (1 keeps all, unseen), and
            NMS_CLASS_AGNOSTIC.
    """
    if test.NMS_THRESHOLD == 1 or len(found) < 2:
        return found
    duplicates = _duplicates(found.masks, test.NMS_THRESHOLD)
    if not test.NMS_CLASS_AGNOSTIC:
        labels = found.labels.cpu().numpy()
        duplicates &= labels[:, None] == labels
    kept = torch.from_numpy(~suppressed(duplicates)).to(found.scores.device)
    return found.chosen(kept.nonzero()[:, 0])


def suppressed(duplicates: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of K instances repeat a better one that is kept: what a loop from the best to the worst would find.

    Cluster-NMS (Zheng et al. 2020, algorithm 2): a round decides all instances by those of the round before. After n
    rounds the first n are right, and nothing changes any more when all are: mostly after a few rounds.

    Args:
        duplicates: (K, K), where the row is the better one of two that show the same.
    """
    dropped: NDArray[np.bool_] = np.zeros(len(duplicates), np.bool_)
    while True:
        again: NDArray[np.bool_] = np.any(duplicates[~dropped], axis=0)
        if np.array_equal(again, dropped):
            return dropped
        dropped = again


def _duplicates(masks: Sequence[Rle], threshold: float) -> NDArray[np.bool_]:
    """(K, K): row i, column j where j > i and the masks' intersection over union is above the threshold."""
    same = np.zeros((len(masks), len(masks)), np.bool_)
    for start in range(0, len(masks), ROWS_AT_ONCE):
        rows, worse = list(masks[start : start + ROWS_AT_ONCE]), list(masks[start:])
        same[start : start + len(rows), start:] = mask_utils.iou(rows, worse, [0] * len(worse)) > threshold
    return np.triu(same, 1)
