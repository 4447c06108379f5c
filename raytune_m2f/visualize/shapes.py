"""Smooth shapes of masks at any enlargement, and their colours.

A mask M is smoothed by a Gaussian and read at the centres of the output's pixels, both in one product W_y M W_x^T:
row i of the weights W holds the Gaussian's share on each source row. Across a straight edge the result is the normal
distribution of the distance to the edge, so its inverse is that distance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels, right and bottom not included."""
Point = tuple[int, int]
"""(x, y) in pixels."""

Colour = tuple[int, int, int]
"""sRGB, 0-255."""

_FIRST_HUE = 28.0  # degrees: the first category is a warm red
_GOLDEN_ANGLE = 137.508  # degrees: any number of hues, each far from the ones before it
_SPREAD = 26.0  # degrees to either side: instances of a category differ, but stay of its colour

_OKLAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)

_MARGIN = 4  # source pixels around a mask: room for its outline


@dataclass(frozen=True)
class Anchors:
    """The outermost points of a shape, and its centre: where a label may touch it."""

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
        """Its outermost points; the mean of them where there are several."""
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


def mask_shape(mask: Tensor, size: tuple[int, int]) -> Shape:
    """The shape of a mask (H, W) bool, not empty, in an output of `size` (h, w)."""
    scale = size[0] / mask.shape[0]
    sigma = min(0.5 + 0.1 * scale, 1.0)  # source pixels: rounds off the stairs of an enlarged mask, keeps a thin one
    rows, top, bottom, down = _axis(mask.any(1), size[0], sigma)
    columns, left, right, across = _axis(mask.any(0), size[1], sigma)
    smooth = down @ mask[rows, columns].double() @ across.T
    distance = sigma * scale * math.sqrt(2) * torch.erfinv((2 * smooth - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    return Shape((left, top, right, bottom), distance.float())


def _axis(filled: Tensor, output_size: int, sigma: float) -> tuple[slice, int, int, Tensor]:
    """The part of one axis that a mask takes up.

    Args:
        filled: (S,) bool, the rows or columns of the mask that have a pixel of the instance.

    Returns:
        Its slice of the mask, begin and end in the output, and the Gaussian's (output, source) weights.
    """
    source_size = len(filled)
    scale = output_size / source_size
    indices = filled.nonzero()
    first, last = int(indices[0]), int(indices[-1]) + 1
    start, stop = max(first - _MARGIN, 0), min(last + _MARGIN, source_size)
    begin, end = math.floor(start * scale), min(math.ceil(stop * scale), output_size)
    edges = torch.arange(start, stop + 1, dtype=torch.float64)
    # The mask goes on beyond the image, so that no outline is drawn along the image's border.
    edges[0], edges[-1] = -math.inf, math.inf
    centres = (torch.arange(begin, end, dtype=torch.float64) + 0.5) / scale
    weights = torch.special.ndtr((edges - centres[:, None]) / sigma).diff(dim=1)
    return slice(start, stop), begin, end, weights


def category_colour(label: int) -> Colour:
    """The colour of a category, the same in every picture."""
    return _oklch(0.74, 0.15, _FIRST_HUE + label * _GOLDEN_ANGLE)


def instance_colours(labels: Sequence[int]) -> list[Colour]:
    """A colour for each instance: its category's hue, shifted a little from one instance to the next."""
    seen: dict[int, int] = {}
    colours = []
    for label in labels:
        number = seen[label] = seen.get(label, -1) + 1
        shift = math.fmod(number * 0.618034 + 0.5, 1.0) * 2 - 1  # in [-1, 1), 0 for the first, evenly spread
        lightness = 0.74 + 0.05 * (number % 3 - 1) * (number > 0)
        colours.append(_oklch(lightness, 0.15, _FIRST_HUE + label * _GOLDEN_ANGLE + _SPREAD * shift))
    return colours


def _oklch(lightness: float, chroma: float, hue: float) -> Colour:
    """OKLCH to sRGB (Ottosson 2020, https://bottosson.github.io/posts/oklab): equal lightness looks equally light."""
    angle = math.radians(hue)
    lab = np.array([lightness, chroma * math.cos(angle), chroma * math.sin(angle)])
    linear = np.clip(_LMS_TO_RGB @ (_OKLAB_TO_LMS @ lab) ** 3, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in encoded)
    return red, green, blue
