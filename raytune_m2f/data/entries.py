"""Check one entry of a COCO file's `images` or `annotations`; a ValueError says what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from pycocotools import mask as mask_utils

from raytune_m2f.data.labels import wrong_label_message
from raytune_m2f.data.masks import Segmentation, parse_segmentation, to_rle
from raytune_m2f.data.records import Annotation
from raytune_m2f.errors import first_of
from raytune_m2f.model import UNKNOWN

SHOWN = 12
"""Category ids in an error."""


@dataclass(frozen=True, slots=True)
class ImageEntry:
    """An entry of `images`; `file_name` is relative and stays inside the image folder."""

    id: int
    file_name: str
    width: int
    height: int


def parse_image(entry: object) -> ImageEntry:
    """Check an entry of `images`.

    Raises:
        ValueError: a field is missing or wrong, or the file name leaves the image folder.
    """
    if not isinstance(entry, dict):
        raise ValueError("an entry of 'images' must be an object {id, file_name, width, height}")
    name = entry.get("file_name")
    if not isinstance(name, str) or not PurePosixPath(name).name or "\0" in name:
        raise ValueError(f"file_name must be a relative path, got {name!r}")
    windows = PureWindowsPath(name)  # takes / and \ alike, so this also holds on a file made elsewhere
    if windows.anchor or ".." in windows.parts:
        raise ValueError(f"file_name {name!r} leaves the image folder; it must be relative and without '..'")
    image = ImageEntry(_integer(entry, "id"), name, _integer(entry, "width"), _integer(entry, "height"))
    if image.width < 1 or image.height < 1:
        raise ValueError(f"width and height must be 1 pixel at least, got {image.width} x {image.height}")
    return image


def parse_annotation(
    entry: object,
    images: Mapping[int, ImageEntry],
    labels: Mapping[int, int],
    subcategories: Mapping[str, Sequence[str]],
) -> Annotation | None:
    """Check an entry of `annotations`.

    Args:
        entry: the entry.
        images: the file's images by id.
        labels: the label of each category id.
        subcategories: the class names of each head.

    Returns:
        The annotation, or None if its polygons all have fewer than three points.

    Raises:
        ValueError: a field is missing or wrong, or the image or category is not listed.
    """
    if not isinstance(entry, dict):
        raise ValueError("an entry of 'annotations' must be an object")
    number, image_id, category_id = (_integer(entry, key) for key in ("id", "image_id", "category_id"))
    if image_id not in images:
        raise ValueError(f"image_id {image_id} is not among the images")
    if category_id not in labels:
        known = ", ".join(first_of(sorted(labels), SHOWN))
        raise ValueError(f"category_id {category_id} is not among the categories {known}")
    if entry.get("ignore"):
        raise ValueError("'ignore' is not supported, as in detectron2; mark regions to ignore with iscrowd = 1")
    if (iscrowd := entry.get("iscrowd", 0)) not in (0, 1):
        raise ValueError(f"iscrowd must be 0 or 1, got {iscrowd!r}")
    sublabels = {head: _sublabel(entry, head, names) for head, names in subcategories.items()}
    image = images[image_id]
    segmentation = parse_segmentation(entry.get("segmentation"), image.height, image.width)
    if segmentation is None:
        return None
    return Annotation(
        id=number,
        label=labels[category_id],
        segmentation=segmentation,
        bbox=_box(entry, segmentation, image),
        area=_area(entry, segmentation, image),
        iscrowd=bool(iscrowd),
        sublabels=sublabels,
    )


def _integer(entry: dict[str, Any], key: str) -> int:
    value = entry.get(key)
    if type(value) is not int:  # not isinstance: True is no number here
        raise ValueError(f"{key} must be an integer, got {value!r}")
    return value


def _sublabel(entry: dict[str, Any], head: str, names: Sequence[str]) -> int:
    value = entry.get(head)
    if value is None:
        return UNKNOWN
    if type(value) is not int or not 0 <= value < len(names):
        raise ValueError(wrong_label_message(head, value, names))
    return value


def _box(entry: dict[str, Any], segmentation: Segmentation, image: ImageEntry) -> tuple[float, float, float, float]:
    if "bbox" not in entry:
        box = mask_utils.toBbox(to_rle(segmentation, image.height, image.width)).tolist()
    else:
        box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox must be four numbers [x, y, width, height], got {box!r}")
    if box[2] < 0 or box[3] < 0:  # COCO itself has boxes of width or height 0
        raise ValueError(f"bbox {box} has a negative size; COCO's boxes are [x, y, width, height] in pixels")
    return (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def _area(entry: dict[str, Any], segmentation: Segmentation, image: ImageEntry) -> float:
    if "area" not in entry:
        return float(mask_utils.area(to_rle(segmentation, image.height, image.width)))
    area = entry["area"]
    if not _is_number(area) or area < 0:
        raise ValueError(f"area must be a number of pixels, 0 at least, got {area!r}")
    return float(area)


def _is_number(value: object) -> bool:
    # Too large for a float is no number of pixels either.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
