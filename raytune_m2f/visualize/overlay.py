"""Instances over their image.

Everything is drawn at the output size (h, w): a small image is enlarged first, so that its labels can be read.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raytune_m2f.data import Categories
from raytune_m2f.model import Instances
from raytune_m2f.visualize.colours import Colour, category_colour, instance_colours
from raytune_m2f.visualize.fonts import missing
from raytune_m2f.visualize.labels import Label, PlacedLabel, draw_labels, place_labels, place_legend
from raytune_m2f.visualize.shapes import Shape, mask_shape

log = logging.getLogger(__name__)

Picture = NDArray[np.uint8]
"""(H, W, 3), RGB."""

_FILL = 0.27  # opacity of a mask: its colours stay visible, for a colour may be what a subcategory is about
_OUTLINE = 2.4  # width in pixels; less for an instance so small that a line would hide it
_RIM = 2.0  # a dark line under the outline shows it on bright pictures; its width in widths of the outline
_RIM_OPACITY = 0.40
_LONGEST_SIDE = 2048  # pixels: no image is enlarged beyond it
_LONGEST_NAME = 32  # characters


def draw_instances(
    image: Picture,
    instances: Instances,
    categories: Categories,
    *,
    score_threshold: float = 0.5,
    short_side: int = 640,
    show_scores: bool = True,
) -> Picture:
    """Draw instances over their image.

    A label gives the category and its score, then each subcategory and its probability. Where labels would smother
    the picture they become shorter; in a crowd a legend, how many of which category, takes their place.

    Args:
        image: (H, W, 3) uint8, RGB.
        instances: at the size of `image`; a subcategory whose probabilities are all zero is not named.
        categories: what labels and subcategories are called.
        score_threshold: instances below it are left out.
        short_side: pixels; a smaller image is enlarged up to it, a larger one stays as it is.
        show_scores: False leaves out scores and probabilities, as suits ground truth.

    Returns:
        (h, w, 3) uint8, RGB.
    """
    picture = _enlarged(image, short_side)
    masks, scores, classes = instances.masks.cpu(), instances.scores.tolist(), instances.labels.tolist()
    kept = [i for i, score in enumerate(scores) if score >= score_threshold and masks[i].any()]
    shapes = [mask_shape(masks[i], (picture.height, picture.width)) for i in kept]
    colours = instance_colours([classes[i] for i in kept])
    painted = _painted(picture, shapes, colours)
    texts = [_text(instances, i, categories, show_scores) for i in kept]
    labels = [Label(title, details, colour) for (title, details), colour in zip(texts, colours, strict=True)]
    placed = place_labels(labels, [shape.anchors() for shape in shapes], _owners(shapes, painted.size))
    if not placed:
        placed = _legend([classes[i] for i in kept], categories, painted.size)
    return np.asarray(draw_labels(painted, placed))


def _enlarged(image: Picture, short_side: int) -> Image.Image:
    picture = Image.fromarray(image)
    scale = min(short_side / min(picture.size), _LONGEST_SIDE / max(picture.size))
    if scale <= 1:
        return picture
    size = round(picture.width * scale), round(picture.height * scale)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _painted(picture: Image.Image, shapes: Sequence[Shape], colours: Sequence[Colour]) -> Image.Image:
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
    """(h, w): which shape lies there, the smallest of several, -1 for none; `size` is (w, h), as PIL has it."""
    owners = torch.full((size[1], size[0]), -1)
    for i in sorted(range(len(shapes)), key=lambda i: -shapes[i].area):
        left, top, right, bottom = shapes[i].box
        owners[top:bottom, left:right][shapes[i].inside] = i
    return owners.numpy()


def _text(instances: Instances, i: int, categories: Categories, show_scores: bool) -> tuple[str, tuple[str, ...]]:
    """Title and details of instance i."""
    title = _named(_category(categories, int(instances.labels[i])), float(instances.scores[i]), show_scores)
    best = {name: probabilities[i].max(dim=0) for name, probabilities in instances.subprobs.items()}
    details = (
        _named(_class(categories, name, int(top.indices)), float(top.values), show_scores)
        for name, top in best.items()
        if top.values > 0
    )
    return title, tuple(details)


def _category(categories: Categories, label: int) -> str:
    return _legible(categories.names[label], f"category {categories.ids[label]}")


def _class(categories: Categories, head: str, index: int) -> str:
    return _legible(categories.subcategories[head][index], f"{'' if missing(head) else head} {index}".strip())


@cache
def _legible(name: str, number: str) -> str:
    """A name, or where no font has its characters, its number."""
    if not missing(name):
        return name
    _advise()
    log.warning("no font here can draw %r: it is %r in the pictures", name, number)
    return number


@cache
def _advise() -> None:
    """Say once where a font comes from."""
    log.warning(
        "Names that no font of this machine can draw are written as numbers. Install a font that has them "
        "(fonts-noto-cjk for Chinese, Japanese and Korean, fonts-noto-core for most others, fonts-symbola for emoji), "
        "or put its .ttf into ~/.fonts."
    )


def _named(name: str, probability: float, show: bool) -> str:
    name = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return f"{name} {probability:.0%}" if show else name


def _legend(classes: Sequence[int], categories: Categories, size: tuple[int, int]) -> list[PlacedLabel]:
    counts = Counter(classes).most_common()
    return place_legend(
        [(f"{_category(categories, label)}: {number}", category_colour(label)) for label, number in counts], size
    )
