"""Colours that tell instances apart and go well together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

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
    """OKLCH (Ottosson 2020, https://bottosson.github.io/posts/oklab) to sRGB: equal lightness looks equally
    light."""
    angle = math.radians(hue)
    lab = np.array([lightness, chroma * math.cos(angle), chroma * math.sin(angle)])
    linear = np.clip(_LMS_TO_RGB @ (_OKLAB_TO_LMS @ lab) ** 3, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in encoded)
    return red, green, blue
