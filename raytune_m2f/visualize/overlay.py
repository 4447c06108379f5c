"""Draw instances over their image (translucent masks, smooth outlines, readable labels), and several pictures as one.

Everything is drawn at the output size (h, w): a small image is enlarged first, so that its labels can be read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import one_hot

from raytune_m2f.data import Categories, ImageRecord
from raytune_m2f.model import Instances
from raytune_m2f.visualize.fonts import Fonts, system_fonts
from raytune_m2f.visualize.labels import Label, draw_labels, place_labels, place_legend
from raytune_m2f.visualize.shapes import Colour, Shape, category_colour, instance_colours, mask_shape

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""

_FILL = 0.27  # opacity of a mask: the image's colours stay visible, as a subcategory may be a colour
_OUTLINE = 2.4  # width in pixels; less for an instance so small that a line would hide it
_RIM = 2.0  # a dark line under the outline shows it on bright pictures; its width in widths of the outline
_RIM_OPACITY = 0.40
_LONGEST_SIDE = 2048  # pixels: no image is enlarged beyond it
_LONGEST_NAME = 32  # characters
_GUTTER = 12  # pixels between the pictures of a sheet
_CAPTION = 30  # height in pixels
_PAPER, _INK = (250, 250, 248), (40, 44, 52)


def draw_instances(
    image: Picture,
    instances: Instances,
    categories: Categories,
    *,
    score_threshold: float = 0.5,
    short_side: int = 640,
    show_scores: bool = True,
    fonts: Fonts | None = None,
) -> Picture:
    """Draw instances over their image.

    A label gives the category and its score, then each subcategory and its probability. Where labels would cover too
    much of the picture they are shortened; in a crowd a legend with the number of instances per category replaces them.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: at the size of `image`; a subcategory whose probabilities are all zero is not named.
        categories: names of the labels and subcategories.
        score_threshold: instances below it are left out.
        short_side: pixels; a smaller image is enlarged up to it, a larger one stays as it is.
        show_scores: False leaves out scores and probabilities, as suits ground truth.
        fonts: by default the system's.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    fonts = fonts or system_fonts()
    picture = _enlarge(image, short_side)
    masks, scores, classes = instances.masks.cpu(), instances.scores.tolist(), instances.labels.tolist()
    kept = [i for i, score in enumerate(scores) if score >= score_threshold and masks[i].any()]
    shapes = [mask_shape(masks[i], (picture.height, picture.width)) for i in kept]
    colours = instance_colours([classes[i] for i in kept])
    painted = _paint(picture, shapes, colours)
    labels = [
        _label(instances, i, categories, colour, show_scores, fonts) for i, colour in zip(kept, colours, strict=True)
    ]
    placed = place_labels(labels, [shape.anchors() for shape in shapes], _owners(shapes, painted.size), fonts)
    if not placed:
        counts = Counter(classes[i] for i in kept).most_common()
        entries = [(f"{_category(categories, c, fonts)}: {number}", category_colour(c)) for c, number in counts]
        placed = place_legend(entries, painted.size, fonts)
    return np.asarray(draw_labels(painted, placed, fonts))


def contact_sheet(
    images: Sequence[Picture],
    columns: int,
    *,
    captions: Sequence[str] = (),
    cell_width: int = 640,
) -> Picture:
    """Put pictures in rows, each shrunk or enlarged to the same width.

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


def _enlarge(image: Picture, short_side: int) -> Image.Image:
    picture = Image.fromarray(image)
    scale = min(short_side / min(picture.size), _LONGEST_SIDE / max(picture.size))
    if scale <= 1:
        return picture
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _paint(picture: Image.Image, shapes: Sequence[Shape], colours: Sequence[Colour]) -> Image.Image:
    """Masks first, the largest at the bottom, then all outlines, so that no mask hides one."""
    canvas = torch.from_numpy(np.array(picture)).float()  # (h, w, 3)
    pairs = sorted(zip(shapes, colours, strict=True), key=lambda pair: -pair[0].area)
    for shape, colour in pairs:
        _blend(canvas, shape, _FILL * (shape.distance + 0.5).clamp(0, 1), colour)
    for shape, colour in pairs:
        width = min(_OUTLINE, max(1.4, 0.08 * shape.area**0.5))
        _blend(canvas, shape, _RIM_OPACITY * _line(shape, _RIM * width), (0, 0, 0))
        _blend(canvas, shape, _line(shape, width), colour)
    return Image.fromarray(canvas.round().to(torch.uint8).numpy())


def _line(shape: Shape, width: float) -> Tensor:
    """Coverage of each pixel by a line of this width along the outline."""
    return (width / 2 + 0.5 - shape.distance.abs()).clamp(0, 1)


def _blend(canvas: Tensor, shape: Shape, alpha: Tensor, colour: Colour) -> None:
    left, top, right, bottom = shape.box
    region = canvas[top:bottom, left:right]
    region += alpha[..., None] * (torch.tensor(colour) - region)


def _owners(shapes: Sequence[Shape], size: tuple[int, int]) -> NDArray[np.int64]:
    """(h, w): the number of the shape that covers the pixel, the smallest of several, -1 for none; `size` is (w, h)."""
    owners = torch.full((size[1], size[0]), -1)
    for i in sorted(range(len(shapes)), key=lambda i: -shapes[i].area):
        left, top, right, bottom = shapes[i].box
        owners[top:bottom, left:right][shapes[i].inside] = i
    return owners.numpy()


def _label(
    instances: Instances, i: int, categories: Categories, colour: Colour, show_scores: bool, fonts: Fonts
) -> Label:
    """The label of instance i."""

    def text(name: str, probability: float) -> str:
        name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
        return f"{name} {probability:.0%}" if show_scores else name

    title = text(_category(categories, int(instances.labels[i]), fonts), float(instances.scores[i]))
    best = {head: probabilities[i].max(dim=0) for head, probabilities in instances.subprobs.items()}
    details = [
        text(_class(categories, head, int(top.indices), fonts), float(top.values))
        for head, top in best.items()
        if top.values > 0
    ]
    return Label(title, tuple(details), colour)


def _category(categories: Categories, label: int, fonts: Fonts) -> str:
    return fonts.name_or_number(categories.names[label], f"category {categories.ids[label]}")


def _class(categories: Categories, head: str, index: int, fonts: Fonts) -> str:
    number = str(index) if fonts.missing(head) else f"{head} {index}"
    return fonts.name_or_number(categories.subcategories[head][index], number)


def _cell(image: Picture, width: int) -> Image.Image:
    picture = Image.fromarray(image)
    height = max(1, round(picture.height * width / picture.width))
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _captioned(cell: Image.Image, text: str) -> Image.Image:
    whole = Image.new("RGB", (cell.width, cell.height + _CAPTION), _PAPER)
    whole.paste(cell, (0, _CAPTION))
    system_fonts().draw(ImageDraw.Draw(whole), (0, _CAPTION / 2), text, 18, _INK)
    return whole


def ground_truth_instances(record: ImageRecord, categories: Categories) -> Instances:
    """The annotations of an image, crowds left out, as instances with score 1.

    A subcategory has probability 1; one that is unknown has none for any class.
    """
    annotations = record.instances
    masks = np.zeros((len(annotations), record.height, record.width), dtype=bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[...] = annotation.mask(record.height, record.width)
    return Instances(
        scores=torch.ones(len(annotations)),
        labels=torch.tensor([annotation.label for annotation in annotations], dtype=torch.int64),
        masks=torch.from_numpy(masks),
        queries=torch.arange(len(annotations)),
        subprobs={
            name: certain_probabilities([annotation.sublabels[name] for annotation in annotations], len(classes))
            for name, classes in categories.subcategories.items()
        },
    )


def certain_probabilities(labels: list[int], classes: int) -> Tensor:
    """(K, classes): one-hot rows; `UNKNOWN` (-1) becomes a row of zeros."""
    return one_hot(torch.tensor(labels, dtype=torch.int64) + 1, classes + 1)[:, 1:].float()
