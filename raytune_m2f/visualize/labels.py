"""Where the text of a picture goes: beside its instance, inside the picture, on no other text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from raytune_m2f.visualize.colours import Colour
from raytune_m2f.visualize.shapes import Box

_GAP = 3
_PADDING = 5
_BACKGROUND = (18, 20, 26, 205)
_TITLE = (255, 255, 255, 255)
_DETAIL = (214, 219, 228, 255)
_DETAIL_SIZE = 0.86  # of the title's
_MOST_TEXT = 0.20  # share of the picture that text may take


@dataclass(frozen=True)
class Label:
    """What is to be written at an instance: a title, smaller lines under it, the instance's colour and
    box."""

    title: str
    details: tuple[str, ...]
    colour: Colour
    target: Box

    def short(self) -> Label:
        return Label(self.title, (), self.colour, self.target)


@dataclass(frozen=True)
class PlacedLabel:
    label: Label
    box: Box


def load_font(size: float) -> ImageFont.FreeTypeFont:
    """Pillow's own scalable font: no file to find, the same on every machine."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def font_size(size: tuple[int, int]) -> int:
    """Text height in pixels that can be read in a picture of this size."""
    return max(13, round(0.024 * min(size)))


def place_labels(labels: Sequence[Label], size: tuple[int, int], covered: NDArray[np.bool_]) -> list[PlacedLabel]:
    """A place for each label, in order of importance; a label for which no free place is left is shortened
    or left out.

    Args:
        labels: the most important first.
        size: (w, h) of the picture.
        covered: (h, w), where instances are: text would rather lie elsewhere.

    Returns:
        The placed ones; none at all if even the short ones would smother the picture.
    """
    height = font_size(size)
    budget = _MOST_TEXT * size[0] * size[1]
    for candidates in (list(labels), [label.short() for label in labels]):
        if sum(_area(label, height) for label in candidates) <= budget:
            return _place(candidates, height, covered)
    return []


def place_legend(entries: Sequence[tuple[str, Colour]], size: tuple[int, int]) -> list[PlacedLabel]:
    """Entries under each other in the top left corner, as many as the picture is high."""
    labels = [Label(text, (), colour, (0, 0, 0, 0)) for text, colour in entries]
    extents = [_extent(label, font_size(size)) for label in labels]
    width = max((width for width, _ in extents), default=0)
    rows = [
        (_GAP + i * height, label, height) for i, (label, (_, height)) in enumerate(zip(labels, extents, strict=True))
    ]
    return [
        PlacedLabel(label, (_GAP, top, _GAP + width, top + height))
        for top, label, height in rows
        if top + height <= size[1]
    ]


def _place(labels: Sequence[Label], size: int, covered: NDArray[np.bool_]) -> list[PlacedLabel]:
    table = np.pad(covered.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    placed: list[PlacedLabel] = []
    for label in labels:
        for version in (label, label.short()):
            boxes = list(_places(version, size, covered.shape[1], covered.shape[0]))
            free = [box for box in boxes if not any(_overlap(box, other.box) for other in placed)]
            if free:
                best = min(free, key=lambda box: _covered(table, box) + 0.02 * boxes.index(box))
                placed.append(PlacedLabel(version, best))
                break
    return placed


def _places(label: Label, size: int, width: int, height: int) -> Iterator[Box]:
    """Places around and in the instance, the best first, moved into the picture."""
    w, h = _extent(label, size)
    left, top, right, bottom = label.target
    middle_x, middle_y = (left + right - w) // 2, (top + bottom - h) // 2
    for x, y in (
        (middle_x, top - h - _GAP),
        (left, top - h - _GAP),
        (right - w, top - h - _GAP),
        (middle_x, bottom + _GAP),
        (right + _GAP, middle_y),
        (left - w - _GAP, middle_y),
        (middle_x, top + _GAP),
        (middle_x, middle_y),
        (middle_x, bottom - h - _GAP),
    ):
        x, y = max(0, min(x, width - w)), max(0, min(y, height - h))
        yield x, y, x + w, y + h


def _covered(table: NDArray[np.int64], box: Box) -> float:
    """Share of a box that lies on instances; `table` sums everything above and left of a pixel."""
    left, top, right, bottom = (min(v, table.shape[1 - i % 2] - 1) for i, v in enumerate(box))
    inside = table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
    return float(inside) / max((right - left) * (bottom - top), 1)


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _lines(label: Label, size: int) -> Iterator[tuple[str, ImageFont.FreeTypeFont, tuple[int, int, int, int]]]:
    yield label.title, load_font(size), _TITLE
    for detail in label.details:
        yield detail, load_font(size * _DETAIL_SIZE), _DETAIL


def _line_height(font: ImageFont.FreeTypeFont) -> int:
    return round(font.size * 1.22)


def _extent(label: Label, size: int) -> tuple[int, int]:
    """Width and height of a label's box."""
    lines = list(_lines(label, size))
    width = max(font.getlength(text) for text, font, _ in lines)
    return round(width) + 3 * _PADDING, sum(_line_height(font) for _, font, _ in lines) + _PADDING


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
    for text, font, colour in _lines(placed.label, size):
        draw.text((left + 2 * _PADDING, y + _line_height(font) / 2), text, colour, font, anchor="lm")
        y += _line_height(font)
