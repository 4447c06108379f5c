"""labelme: a JSON file for each image.

Format: https://github.com/wkentaro/labelme, labelme/_label_file.py; what a shape covers: labelme/utils/shape.py. Shapes
of one label and one group_id are one object. A rectangle covers what is in it there, so it is an outline here as well.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.draft import Draft, Notes, Reading
from raytune_m2f.project.dialects.outlines import (
    MOST_PIXELS,
    Mask,
    Shape,
    ellipse,
    encode,
    paste,
    polygon,
    rectangle,
    united,
)
from raytune_m2f.project.dialects.values import FieldReader, Said, dictionary, listed, number, size_of, word
from raytune_m2f.project.export import Item

OWN = frozenset({"label", "points", "shape_type", "group_id", "mask", "line_color", "fill_color"})
PICTURES_OWN = frozenset(
    {"version", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth", "lineColor", "fillColor"}
)
NO_OBJECT = frozenset({"__ignore__", "_background_"})
"""Labels that mean no object, as labelme's own converters to VOC and COCO take them."""
EMBEDDED = (
    " The JSON files hold the images themselves (imageData), which is not read: save them as files beside, as "
    "labelme's labelme_export_json does."
)
WITHOUT_AREA = ("point", "points", "line", "linestrip")


def is_labelme(content: object) -> bool:
    """Whether a JSON file is of this form."""
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return False
    return "imagePath" in content or "imageHeight" in content


def read_labelme(contents: Mapping[Path, Mapping[str, Any]]) -> Reading:
    """Read files whose content `is_labelme`.

    Raises:
        DatasetError: all shapes are rectangles: boxes, no outlines.
    """
    notes = Notes()
    fields = FieldReader(notes)
    said: list[tuple[Path, Mapping[str, Any], list[tuple[Item, Said]]]] = []
    kinds = set()
    for path, content in contents.items():
        groups: dict[object, list[Mapping[str, Any]]] = {}
        for place, shape in enumerate(content["shapes"]):
            shape = dictionary(shape)
            kinds.add(word(shape.get("shape_type")))
            group = word(shape.get("group_id"))
            groups.setdefault((word(shape.get("label")), group) if group else place, []).append(shape)
        size = size_of(content.get("imageWidth"), content.get("imageHeight"))
        items = [
            item
            for place, shapes in enumerate(groups.values(), start=1)
            if (item := _object(shapes, size, fields, notes, f"{path.name}, object {place}"))
        ]
        said.append((path, content, items))
    if kinds - set(WITHOUT_AREA) == {"rectangle"}:
        raise DatasetError(boxes_alone(next(iter(contents))))
    drafts = [_draft(path, content, items, fields) for path, content, items in said]
    categories = dict.fromkeys(item.category for draft in drafts for item in draft.items)
    advice = EMBEDDED if any(content.get("imageData") for content in contents.values()) else ""
    return Reading("labelme", tuple(contents), tuple(sorted(categories)), drafts, notes, advice=advice)


def boxes_alone(path: Path) -> str:
    """The message for an export that has no mask at all."""
    return (
        f"{path} has boxes alone, no outline of any object: there is no mask to learn. Export the polygons or masks, "
        "where the tool has them, or draw them (CVAT and Label Studio make a mask of a click with Segment Anything)"
    )


def _draft(path: Path, content: Mapping[str, Any], items: Sequence[tuple[Item, Said]], fields: FieldReader) -> Draft:
    reader = FieldReader(Notes())
    about = reader.finish(reader.read(content, skip=PICTURES_OWN))
    done = tuple(Item(i.category, i.segmentation, i.crowd, fields.finish(said), i.origin) for i, said in items)
    name = word(content.get("imagePath")) or path.stem
    size = size_of(content.get("imageWidth"), content.get("imageHeight"))
    return Draft(name, done, size, fields=about, base=path.parent, aliases=(f"{path.stem}.jpg",))


def _object(
    shapes: Sequence[Mapping[str, Any]],
    size: tuple[float, float] | None,
    fields: FieldReader,
    notes: Notes,
    origin: str,
) -> tuple[Item, Said] | None:
    label = word(shapes[0].get("label"))
    if not label or label in NO_OBJECT:
        what = "shapes without a label" if not label else f"shapes called {label!r}, labelme's word for no object,"
        notes.add(f"{what} are left out", origin)
        return None
    parts = [part for shape in shapes if (part := _shape(shape, size, notes, f"{origin} ({label})")) is not None]
    if not parts:
        return None
    said: Said = {}
    for shape in shapes:
        said = fields.read(shape, skip=OWN) | said
    return Item(label, united(parts, size), False, {}, origin), said


def _shape(shape: Mapping[str, Any], size: tuple[float, float] | None, notes: Notes, origin: str) -> Shape | None:
    kind = word(shape.get("shape_type")) or "polygon"
    if kind in WITHOUT_AREA:
        notes.add("points and lines, which have no area, are left out", origin)
        return None
    points = [value for point in listed(shape.get("points")) for value in listed(point)]
    numbers = [value for point in points if (value := number(point)) is not None]
    outline: tuple[float, ...] | None = None
    match kind, numbers if len(numbers) == len(points) else []:
        case (("polygon" | "rotation"), _):  # rotation: X-AnyLabeling's turned rectangle, by its corners
            outline = polygon(numbers)
        case "rectangle", [x1, y1, x2, y2]:
            outline = rectangle(min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1))
        case "rectangle", [_, _, _, _, _, _, _, _]:  # by its corners, as newer versions write it
            outline = polygon(numbers)
        case "circle", [x, y, on_x, on_y]:
            radius = math.dist((x, y), (on_x, on_y))
            outline = ellipse(x, y, radius, radius)
        case "mask", [_, _, *_]:
            return _mask(shape, round(min(numbers[::2])), round(min(numbers[1::2])), size, notes, origin)
    if outline is None:
        notes.add("shapes of a kind that is not known, or with too few points, are left out", f"{origin}: {kind!r}")
    return (outline,) if outline is not None else None


def _mask(
    shape: Mapping[str, Any], left: int, top: int, size: tuple[float, float] | None, notes: Notes, origin: str
) -> Shape | None:
    crop = _picture(word(shape.get("mask")))
    if crop is None or size is None or size[0] * size[1] > MOST_PIXELS:
        notes.add("masks that cannot be read are left out", origin)
        return None
    return encode(paste(crop, left, top, int(size[1]), int(size[0])))


def _picture(text: str) -> Mask | None:
    """The mask in a PNG file that is written as base64: where it is not 0."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=False)), formats=("PNG",)) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            return np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, OverflowError, Image.DecompressionBombError):
        return None
