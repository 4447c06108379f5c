"""Whether masks follow what their images show: edges lie along an outline, and fewer along the same outline elsewhere.

Masks of another image, mirrored or moved ones, contradict nothing in an annotation file, nor in its boxes; a network
learns nothing from them, or to predict beside the objects.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, maximum_filter

from raytune_m2f.data.images import RgbImage

NEAR = 1
"""An outline is drawn so exactly [pixels]."""
LEAST_MOVED = 8
"""An outline is moved by half of its object's width, and by so much at least [pixels]."""
LEAST_POINTS = 12
"""Of an outline that says anything."""


def edge_ratio(image: RgbImage, mask: NDArray[np.bool_]) -> float | None:
    """How much stronger the image's edges are along a mask's outline than along the same outline moved four ways.

    Args:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.

    Returns:
        The ratio of the mean gradients: above 1 where the outline follows the image, around 1 where it has nothing to
        do with it. None if there is too little of an outline, or nothing to be seen.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    move = max(LEAST_MOVED, round(math.sqrt(int(mask.sum())) / 2))
    top, left = max(0, rows[0] - move - 3), max(0, columns[0] - move - 3)
    window = np.s_[top : rows[-1] + move + 4, left : columns[-1] + move + 4]
    edges, part = _edges(image[window]), mask[window]
    points = np.argwhere(part & ~binary_erosion(part, border_value=1))  # where the image cuts it off is no outline
    if len(points) < LEAST_POINTS:
        return None
    moved = [_mean(edges, points + offset, len(points)) for offset in ((move, 0), (-move, 0), (0, move), (0, -move))]
    there = [value for value in moved if value is not None]
    along = float(edges[tuple(points.T)].mean())
    elsewhere = float(np.mean(there)) if there else 0.0
    return along / elsewhere if elsewhere > 0 else None


def _edges(image: RgbImage) -> NDArray[np.float32]:
    """(H, W): the largest gradient of a channel, within `NEAR` pixels."""
    values = image.astype(np.float32)
    down, right = np.gradient(values, axis=0), np.gradient(values, axis=1)
    strength: NDArray[np.float32] = maximum_filter(np.hypot(down, right).max(2), size=2 * NEAR + 1)
    return strength


def _mean(edges: NDArray[np.float32], points: NDArray[np.int64], wanted: int) -> float | None:
    """Of the points inside; None if less than half of them are."""
    inside = points[((points >= 0) & (points < edges.shape)).all(1)]
    return float(edges[tuple(inside.T)].mean()) if len(inside) * 2 >= wanted else None
