"""Smooth outlines of masks, at any enlargement.

A mask M is smoothed by a Gaussian and read at the centres of the output's pixels, both in one product W_y M W_x^T:
row i of the weights W holds the Gaussian's share on each source row. Across a straight edge the result is the normal
distribution of the distance to the edge, so its inverse is that distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom not included."""
Point = tuple[int, int]
"""(x, y) in pixels."""

_MARGIN = 4  # source pixels around a mask: room for its outline


@dataclass(frozen=True)
class Anchors:
    """The outermost points of a shape, and its centre."""

    top: Point
    bottom: Point
    left: Point
    right: Point
    centre: Point


@dataclass(frozen=True)
class Shape:
    """The outline of one mask.

    Attributes:
        box: what `distance` covers of the output: the mask with some room around it.
        distance: (box height, box width), output pixels to the outline, positive inside. True near the outline only,
            from some three source pixels on it stays constant.
    """

    box: Box
    distance: Tensor

    @property
    def inside(self) -> Tensor:
        """(box height, box width) bool."""
        return self.distance > 0

    @property
    def area(self) -> int:
        """In output pixels."""
        return int(self.inside.sum())

    def anchors(self) -> Anchors:
        """Where a label may touch the shape."""
        # A speck may be smoothed away; its least distant pixels then stand for it.
        y, x = (self.distance >= self.distance.max().clamp(max=0)).nonzero(as_tuple=True)
        x, y = x + self.box[0], y + self.box[1]

        def middle(chosen: Tensor) -> Point:
            return round(float(x[chosen].double().mean())), round(float(y[chosen].double().mean()))

        return Anchors(
            top=middle(y == y.min()),
            bottom=middle(y == y.max()),
            left=middle(x == x.min()),
            right=middle(x == x.max()),
            centre=middle(x >= 0),
        )


@dataclass(frozen=True)
class _Axis:
    """One axis of a mask's crop: `source` in the mask, `output` in the picture, (output, source) weights."""

    source: slice
    output: slice
    weights: Tensor


def mask_shape(mask: Tensor, size: tuple[int, int]) -> Shape:
    """The shape of a mask (H, W) bool, not empty, in an output of `size` (h, w)."""
    scale = size[0] / mask.shape[0]
    sigma = _smoothing(scale)
    y, x = _axis(mask.any(1), size[0], sigma), _axis(mask.any(0), size[1], sigma)
    smooth = y.weights @ mask[y.source, x.source].double() @ x.weights.T
    distance = sigma * scale * math.sqrt(2) * torch.erfinv((2 * smooth - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    return Shape(
        box=(x.output.start, y.output.start, x.output.stop, y.output.stop),
        distance=distance.float(),
    )


def _smoothing(scale: float) -> float:
    """The Gaussian's sigma in source pixels: it rounds off the stairs of an enlarged mask, and keeps a thin one."""
    return min(0.5 + 0.1 * scale, 1.0)


def _axis(occupied: Tensor, output_size: int, sigma: float) -> _Axis:
    """`occupied` (S,) bool: the rows or columns of the mask that have a pixel of the instance."""
    source_size = len(occupied)
    scale = output_size / source_size
    where = occupied.nonzero()
    first, last = int(where[0]), int(where[-1]) + 1
    start, stop = max(first - _MARGIN, 0), min(last + _MARGIN, source_size)
    output = slice(math.floor(start * scale), min(math.ceil(stop * scale), output_size))
    edges = torch.arange(start, stop + 1, dtype=torch.float64)
    # The mask goes on beyond the image, so that no outline is drawn along the image's border.
    edges[0], edges[-1] = -math.inf, math.inf
    centres = (torch.arange(output.start, output.stop, dtype=torch.float64) + 0.5) / scale
    below = torch.special.ndtr((edges - centres[:, None]) / sigma)  # (output, source + 1)
    return _Axis(slice(start, stop), output, below.diff(dim=1))
