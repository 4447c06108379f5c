"""Placement of labels: beside their instance, inside the picture, without overlap."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raytune_m2f.visualize.fonts import Fonts, system_fonts
from raytune_m2f.visualize.shapes import Anchors, Box, Colour

_GAP = 3
_PADDING = 5
_PLATE = (18, 20, 26, 205)
_TITLE = (255, 255, 255, 255)
_DETAIL = (214, 219, 228, 255)
_DETAIL_SIZE = 0.86  # of the title's
_MOST_TEXT = 0.13  # share of the picture that text may take
_OWN = 0.4  # cost of hiding the label's own instance, where another's is 1


@dataclass(frozen=True)
class Label:
    """What is written at an instance: a title, and smaller lines under it."""

    title: str
    details: tuple[str, ...]
    colour: Colour

    def short(self) -> Label:
        """The title alone."""
        return replace(self, details=())

    def lines(self, size: int) -> Iterator[tuple[str, float, tuple[int, int, int, int]]]:
        """Text, size and colour of each line, where the title has `size`."""
        yield self.title, size, _TITLE
        for detail in self.details:
            yield detail, size * _DETAIL_SIZE, _DETAIL

    def extent(self, size: int, fonts: Fonts) -> tuple[int, int]:
        """Width and height of the label's box."""
        lines = list(self.lines(size))
        width = max(fonts.length(text, height) for text, height, _ in lines)
        return round(width) + 3 * _PADDING, sum(_line_height(height) for _, height, _ in lines) + _PADDING


@dataclass(frozen=True)
class PlacedLabel:
    """A label and its box."""

    label: Label
    box: Box


def font_size(size: tuple[int, int]) -> int:
    """Text height in pixels that is readable in a picture of this size."""
    return max(13, round(0.024 * min(size)))


def place_labels(
    labels: Sequence[Label], anchors: Sequence[Anchors], owners: NDArray[np.int64], fonts: Fonts | None = None
) -> list[PlacedLabel]:
    """A place for each label; one for which no free place is left is shortened, or else left out.

    Args:
        labels: the most important first.
        anchors: of the instance of each label.
        owners: (h, w), the number of the label whose instance covers the pixel, -1 for none. Places that hide no
            instance are preferred, then those that hide the label's own.
        fonts: by default the system's.

    Returns:
        The placed ones; none at all if even the short ones would cover too much of the picture.
    """
    fonts = fonts or system_fonts()
    height, width = owners.shape
    size = font_size((width, height))
    for candidates in (list(labels), [label.short() for label in labels]):
        extents = [label.extent(size, fonts) for label in candidates]
        if sum(w * h for w, h in extents) <= _MOST_TEXT * width * height:
            return _place(candidates, anchors, owners, size, fonts)
    return []


def place_legend(
    entries: Sequence[tuple[str, Colour]], size: tuple[int, int], fonts: Fonts | None = None
) -> list[PlacedLabel]:
    """Entries (text, colour) under each other in the top left corner of a picture, as many as fit its height."""
    labels = [Label(text, (), colour) for text, colour in entries]
    extents = [label.extent(font_size(size), fonts or system_fonts()) for label in labels]
    width = max((width for width, _ in extents), default=0)
    placed, top = [], _GAP
    for label, (_, height) in zip(labels, extents, strict=True):
        if top + height <= size[1]:
            placed.append(PlacedLabel(label, (_GAP, top, _GAP + width, top + height)))
        top += height
    return placed


def draw_labels(picture: Image.Image, labels: Sequence[PlacedLabel], fonts: Fonts) -> Image.Image:
    """The picture with the labels on it: text on a dark plate, with the instance's colour at its left."""
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw, size = ImageDraw.Draw(layer), font_size(picture.size)
    for placed in labels:
        left, top, right, bottom = placed.box
        draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius=4, fill=_PLATE)
        bar = (left + 3, top + 4, left + 3 + _PADDING // 2, bottom - 5)
        draw.rounded_rectangle(bar, radius=1, fill=(*placed.label.colour, 255))
        y = top + _PADDING // 2
        for text, height, colour in placed.label.lines(size):
            fonts.draw(draw, (left + 2 * _PADDING, y + _line_height(height) / 2), text, height, colour)
            y += _line_height(height)
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _place(
    labels: Sequence[Label], anchors: Sequence[Anchors], owners: NDArray[np.int64], size: int, fonts: Fonts
) -> list[PlacedLabel]:
    placed: list[PlacedLabel] = []
    for number, (label, anchor) in enumerate(zip(labels, anchors, strict=True)):
        for version in (label, label.short()):
            places = _places(version.extent(size, fonts), anchor, owners.shape)
            free = [(cost, box) for cost, box in places if not any(_overlap(box, other.box) for other in placed)]
            if free:
                box = min((cost + _hidden(owners, box, number), box) for cost, box in free)[1]
                placed.append(PlacedLabel(version, box))
                break
    return placed


def _places(extent: tuple[int, int], at: Anchors, picture: tuple[int, ...]) -> Iterator[tuple[float, Box]]:
    """Cost and box of places around and in the instance, in order of preference.

    A place outside the picture is moved into it, at a cost that grows with the distance.
    """
    (w, h), (height, width) = extent, picture
    above, below = at.top[1] - h - _GAP, at.bottom[1] + _GAP
    for rank, (x, y) in enumerate(
        (
            (at.top[0] - w // 2, above),
            (at.bottom[0] - w // 2, below),
            (at.right[0] + _GAP, at.right[1] - h // 2),
            (at.left[0] - w - _GAP, at.left[1] - h // 2),
            (at.top[0], above),
            (at.top[0] - w, above),
            (at.centre[0] - w // 2, at.centre[1] - h // 2),
            (at.bottom[0], below),
            (at.bottom[0] - w, below),
        )
    ):
        left, top = max(0, min(x, width - w)), max(0, min(y, height - h))
        moved = (abs(left - x) + abs(top - y)) / h
        yield 0.02 * rank + 0.3 * moved, (left, top, left + w, top + h)


def _hidden(owners: NDArray[np.int64], box: Box, number: int) -> float:
    """The cost of what a label hides, per pixel of its box."""
    left, top, right, bottom = box
    under = owners[top:bottom, left:right]
    return float(np.where(under == number, _OWN, 1.0)[under >= 0].sum()) / under.size


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _line_height(size: float) -> int:
    return round(size * 1.22)
