"""Several pictures as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from raytune_m2f.visualize.fonts import draw_line

_GUTTER = 12
_CAPTION = 30  # height in pixels
_PAPER = (250, 250, 248)
_INK = (40, 44, 52)


def contact_sheet(
    images: Sequence[NDArray[np.uint8]],
    columns: int,
    *,
    captions: Sequence[str] = (),
    cell_width: int = 640,
) -> NDArray[np.uint8]:
    """Pictures in rows, each shrunk or enlarged to the same width, for a README or beside each other to
    compare.

    Args:
        images: (H, W, 3) uint8, RGB, of any sizes; at least one.
        columns: pictures in a row; fewer pictures make a narrower sheet.
        captions: one for each picture, written above it; or none at all.
        cell_width: pixels.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    cells = [_cell(image, cell_width) for image in images]
    if captions:
        cells = [_captioned(cell, text) for cell, text in zip(cells, captions, strict=True)]
    columns = min(columns, len(cells))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    size = (columns * (cell_width + _GUTTER) + _GUTTER, sum(heights) + _GUTTER * (len(rows) + 1))
    sheet, top = Image.new("RGB", size, _PAPER), _GUTTER
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            sheet.paste(cell, (_GUTTER + column * (cell_width + _GUTTER), top))
        top += height + _GUTTER
    return np.asarray(sheet)


def _cell(image: NDArray[np.uint8], width: int) -> Image.Image:
    picture = Image.fromarray(image)
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _captioned(cell: Image.Image, text: str) -> Image.Image:
    whole = Image.new("RGB", (cell.width, cell.height + _CAPTION), _PAPER)
    whole.paste(cell, (0, _CAPTION))
    draw_line(ImageDraw.Draw(whole), (0, _CAPTION / 2), text, 18, _INK)
    return whole
