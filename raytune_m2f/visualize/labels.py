"""Where the text of a picture goes: beside its instance, inside the picture, on no other text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raytune_m2f.visualize.colours import Colour
from raytune_m2f.visualize.fonts import draw_line, line_length
from raytune_m2f.visualize.shapes import Anchors, Box

_GAP = 3
_PADDING = 5
_BACKGROUND = (18, 20, 26, 205)
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
        return Label(self.title, (), self.colour)


@dataclass(frozen=True)
class PlacedLabel:
    """A label and the box that it fills."""

    label: Label
    box: Box


def font_size(size: tuple[int, int]) -> int:
    """Text height in pixels that can be read in a picture of this size."""
    return max(13, round(0.024 * min(size)))


def place_labels(labels: Sequence[Label], anchors: Sequence[Anchors], owners: NDArray[np.int64]) -> list[PlacedLabel]:
    """A place for each label; one for which no free place is left is shortened, or else left out.

    Args:
        labels: the most important first.
        anchors: of the instance of each label.
        owners: (h, w), which label's instance lies there, -1 for none: text would rather lie on none, and rather on its
            own than on another one.

    Returns:
        The placed ones; none at all if even the short ones would smother the picture.
    """
    height, width = owners.shape
    size = font_size((width, height))
    for candidates in (list(labels), [label.short() for label in labels]):
        if sum(_area(label, size) for label in candidates) <= _MOST_TEXT * width * height:
            return _place(candidates, anchors, owners, size)
    return []


def place_legend(entries: Sequence[tuple[str, Colour]], size: tuple[int, int]) -> list[PlacedLabel]:
    """Entries under each other in the top left corner, as many as the picture is high."""
    labels = [Label(text, (), colour) for text, colour in entries]
    extents = [_extent(label, font_size(size)) for label in labels]
    width = max((width for width, _ in extents), default=0)
    placed, top = [], _GAP
    for label, (_, height) in zip(labels, extents, strict=True):
        if top + height <= size[1]:
            placed.append(PlacedLabel(label, (_GAP, top, _GAP + width, top + height)))
        top += height
    return placed


def _place(
    labels: Sequence[Label], anchors: Sequence[Anchors], owners: NDArray[np.int64], size: int
) -> list[PlacedLabel]:
    placed: list[PlacedLabel] = []
    for number, (label, anchor) in enumerate(zip(labels, anchors, strict=True)):
        for version in (label, label.short()):
            places = _places(_extent(version, size), anchor, owners.shape)
            free = [(cost, box) for cost, box in places if not any(_overlap(box, other.box) for other in placed)]
            if free:
                box = min((cost + _hidden(owners, box, number), box) for cost, box in free)[1]
                placed.append(PlacedLabel(version, box))
                break
    return placed


def _places(extent: tuple[int, int], at: Anchors, picture: tuple[int, ...]) -> Iterator[tuple[float, Box]]:
    """Places around and in the instance, with a cost that says how little one likes them.

    A place outside the picture is moved into it, which costs the more, the farther it is moved.
    """
    (w, h), (height, width) = extent, picture
    for rank, (x, y) in enumerate(
        (
            (at.top[0] - w // 2, at.top[1] - h - _GAP),
            (at.bottom[0] - w // 2, at.bottom[1] + _GAP),
            (at.right[0] + _GAP, at.right[1] - h // 2),
            (at.left[0] - w - _GAP, at.left[1] - h // 2),
            (at.top[0], at.top[1] - h - _GAP),
            (at.top[0] - w, at.top[1] - h - _GAP),
            (at.centre[0] - w // 2, at.centre[1] - h // 2),
            (at.bottom[0], at.bottom[1] + _GAP),
            (at.bottom[0] - w, at.bottom[1] + _GAP),
        )
    ):
        left, top = max(0, min(x, width - w)), max(0, min(y, height - h))
        moved = (abs(left - x) + abs(top - y)) / h
        yield 0.02 * rank + 0.3 * moved, (left, top, left + w, top + h)


def _hidden(owners: NDArray[np.int64], box: Box, number: int) -> float:
    """What a label hides: its own instance weighs less than others."""
    left, top, right, bottom = box
    under = owners[top:bottom, left:right]
    return float(np.where(under == number, _OWN, 1.0)[under >= 0].sum()) / under.size


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _lines(label: Label, size: int) -> Iterator[tuple[str, float, tuple[int, int, int, int]]]:
    """Each line's text, size and colour."""
    yield label.title, size, _TITLE
    for detail in label.details:
        yield detail, size * _DETAIL_SIZE, _DETAIL


def _line_height(size: float) -> int:
    return round(size * 1.22)


def _extent(label: Label, size: int) -> tuple[int, int]:
    """Width and height of a label's box."""
    lines = list(_lines(label, size))
    width = max(line_length(text, height) for text, height, _ in lines)
    return round(width) + 3 * _PADDING, sum(_line_height(height) for _, height, _ in lines) + _PADDING


def _area(label: Label, size: int) -> int:
    width, height = _extent(label, size)
    return width * height


def draw_labels(picture: Image.Image, labels: Sequence[PlacedLabel]) -> Image.Image:
    """The picture with the labels on it: text on a dark plate, with the instance's colour at its left."""
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    for placed in labels:
        _draw_label(draw, placed, font_size(picture.size))
    return Image.alpha_composite(picture.convert("RGBA"), layer).convert("RGB")


def _draw_label(draw: ImageDraw.ImageDraw, placed: PlacedLabel, size: int) -> None:
    left, top, right, bottom = placed.box
    draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius=4, fill=_BACKGROUND)
    draw.rounded_rectangle(
        (left + 3, top + 4, left + 3 + _PADDING // 2, bottom - 5), radius=1, fill=(*placed.label.colour, 255)
    )
    y = top + _PADDING // 2
    for text, height, colour in _lines(placed.label, size):
        draw_line(draw, (left + 2 * _PADDING, y + _line_height(height) / 2), text, height, colour)
        y += _line_height(height)
