"""Shapes with a colour and a texture: a small multitask dataset that a CPU learns in minutes.

A network from scratch learns masks long before categories; it distinguishes disc, ring and cross soonest.

Main category = shape, subcategories = colour and texture. Later shapes hide earlier ones, so masks are the
visible parts; edges are hard, so a mask is exactly the painted pixels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as mask_utils

from raytune_m2f.data.dataset import generator

SHAPES = ("disc", "ring", "cross")
COLORS = {"red": (214, 69, 65), "green": (66, 160, 90), "blue": (65, 105, 205), "yellow": (238, 190, 60)}
TEXTURES = ("plain", "striped", "dotted")

SMALLEST_RADIUS, LARGEST_RADIUS = 10 / 64, 20 / 64
"""Of the image's side."""
LARGEST_TILT = np.pi / 9
MIN_VISIBLE_AREA = 20
"""Pixels; a shape of which less is to be seen is not painted at all."""
TEXTURE_PERIOD = 6
"""Pixels between stripes and between dots."""
NOISE = 4.0
"""Standard deviation over the whole picture, in grey levels of 255."""

Mask = npt.NDArray[np.bool_]
Grid = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """One object; labels index SHAPES, COLORS and TEXTURES, lengths are in pixels, the tilt is in radians."""

    shape: int
    color: int
    texture: int
    x: float
    y: float
    radius: float
    tilt: float

    def mask(self, size: int) -> Mask:
        """(size, size): the pixels it covers where nothing hides it."""
        x, y = self._frame(size)
        distance, arms = np.hypot(x, y), np.minimum(abs(x), abs(y))
        inside: Mask = distance <= self.radius
        if SHAPES[self.shape] == "ring":
            inside &= distance >= 0.62 * self.radius
        elif SHAPES[self.shape] == "cross":
            inside &= arms <= 0.22 * self.radius
        return inside

    def paint(self, size: int) -> Grid:
        """(size, size, 3): its colours, meaningful where `mask` is true."""
        x, y = self._frame(size)
        color = np.array(list(COLORS.values())[self.color], np.float64)
        light = 1.08 - 0.16 * (x + y + 2 * self.radius)[..., None] / (4 * self.radius)
        return self._pattern(x, y)[..., None] * color * light

    def _pattern(self, x: Grid, y: Grid) -> Grid:
        """Brightness 1, or less in stripes and dots."""
        half = TEXTURE_PERIOD / 2
        dark = np.zeros_like(x, dtype=bool)
        if TEXTURES[self.texture] == "striped":
            dark = (x + y) % TEXTURE_PERIOD < half
        elif TEXTURES[self.texture] == "dotted":
            dark = np.hypot(x % TEXTURE_PERIOD - half, y % TEXTURE_PERIOD - half) < 0.3 * TEXTURE_PERIOD
        return np.where(dark, 0.25, 1.0)

    def _frame(self, size: int) -> tuple[Grid, Grid]:
        """Each pixel's x and y (downwards) in the shape's own tilted frame, whose origin is its centre."""
        y, x = np.mgrid[:size, :size] + 0.5 - np.array([self.y, self.x])[:, None, None]
        cos, sin = np.cos(self.tilt), np.sin(self.tilt)
        return cos * x + sin * y, cos * y - sin * x


def generate_shapes(
    output: Path,
    *,
    train_images: int = 500,
    val_images: int = 60,
    image_size: int = 64,
    seed: int = 0,
    max_instances: int = 3,
) -> dict[str, Path]:
    """Write `train/` and `val/` with PNG images and `train.json` and `val.json` in COCO's format.

    Args:
        output: the folder to write into; made if needed, files of the same names are replaced.
        train_images, val_images: number of images.
        image_size: side of an image, in pixels.
        seed: the same seed gives the same files.
        max_instances: an image has 1 to this many.

    Returns:
        The paths `train_annotations`, `train_images`, `val_annotations`, `val_images`.
    """
    paths = {}
    for split, (name, count) in enumerate((("train", train_images), ("val", val_images))):
        paths[f"{name}_annotations"] = output / f"{name}.json"
        paths[f"{name}_images"] = output / name
        paths[f"{name}_images"].mkdir(parents=True, exist_ok=True)
        content = _empty_file()
        for number in range(1, count + 1):
            rng = generator(seed, split, number)
            shapes = [_draw_shape(rng, image_size) for _ in range(rng.integers(1, max_instances + 1))]
            picture, masks, shapes = paint_scene(shapes, image_size, rng)
            file_name = f"{number:05d}.png"
            Image.fromarray(picture).save(paths[f"{name}_images"] / file_name)
            image = {"id": number, "file_name": file_name, "width": image_size, "height": image_size}
            content["images"].append(image)
            first_id = len(content["annotations"]) + 1
            content["annotations"] += _annotations(shapes, masks, number, first_id)
        paths[f"{name}_annotations"].write_text(json.dumps(content))
    return paths


def paint_scene(
    shapes: list[Shape], size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], list[Mask], list[Shape]]:
    """Paint shapes in order, later ones over earlier ones.

    Returns:
        The picture (size, size, 3) uint8, the visible mask (size, size) of each shape that was painted, and
        those shapes: one that is hidden but for `MIN_VISIBLE_AREA` pixels is left out.
    """
    canvas = _background(size, rng)
    masks: list[Mask] = []
    painted: list[Shape] = []
    hidden = np.zeros((size, size), bool)
    for shape in reversed(shapes):
        visible = shape.mask(size) & ~hidden
        if visible.sum() < MIN_VISIBLE_AREA:
            continue
        canvas[visible] = shape.paint(size)[visible]
        hidden |= visible
        masks.insert(0, visible)
        painted.insert(0, shape)
    noisy = canvas + rng.normal(0, NOISE, (size, size, 1))
    return noisy.clip(0, 255).astype(np.uint8), masks, painted


def _draw_shape(rng: np.random.Generator, size: int) -> Shape:
    x, y = rng.uniform(0.06, 0.94, 2) * size  # the centre is in the picture, the border may cut the rest
    return Shape(
        shape=int(rng.integers(len(SHAPES))),
        color=int(rng.integers(len(COLORS))),
        texture=int(rng.integers(len(TEXTURES))),
        x=x,
        y=y,
        radius=rng.uniform(SMALLEST_RADIUS, LARGEST_RADIUS) * size,
        tilt=rng.uniform(-LARGEST_TILT, LARGEST_TILT),
    )


def _background(size: int, rng: np.random.Generator) -> Grid:
    """(size, size, 3): a soft gradient between two pale greys."""
    corners = rng.uniform(205, 235, (2, 1)) + rng.uniform(-8, 8, (2, 3))
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size] / size - 0.5
    blend = 0.5 + 0.7 * (x * np.cos(direction) + y * np.sin(direction))[..., None]
    gradient: Grid = corners[0] * blend + corners[1] * (1 - blend)
    return gradient


def _empty_file() -> dict[str, Any]:
    return {
        "info": {"description": "synthetic shapes of raytune_m2f"},
        "images": [],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(SHAPES, start=1)],
        "subcategories": {"color": list(COLORS), "texture": list(TEXTURES)},
    }


def _annotations(shapes: list[Shape], masks: list[Mask], image_id: int, first_id: int) -> Iterator[dict[str, Any]]:
    for number, (shape, mask) in enumerate(zip(shapes, masks, strict=True), start=first_id):
        rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        yield {
            "id": number,
            "image_id": image_id,
            "category_id": shape.shape + 1,
            "color": shape.color,
            "texture": shape.texture,
            "iscrowd": 0,
            "area": int(mask.sum()),
            "bbox": mask_utils.toBbox(rle).tolist(),
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        }
