"""Read a COCO instance file and check all of it, so that nothing after it needs to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pycocotools import mask as mask_utils

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.images import IMAGE_SUFFIXES
from raytune_m2f.data.labels import find_labels, unused_labels, wrong_label_message
from raytune_m2f.data.masks import Segmentation, parse_segmentation, to_rle
from raytune_m2f.data.records import Annotation, CocoDataset, ImageRecord, paused_gc
from raytune_m2f.errors import DatasetError, first_of
from raytune_m2f.model import UNKNOWN

SHOWN_PROBLEMS = 10
SHOWN_CATEGORIES = 12


@paused_gc()
def load_coco(
    name: str,
    annotations: Path,
    images: Path,
    subcategories: Sequence[str] = (),
    *,
    skip_missing_heads: bool = False,
    tell_unused: bool = False,
) -> CocoDataset:
    """Read a dataset in COCO's instance format; masks are checked but not decoded, images not opened.

    Args:
        name: the dataset's name.
        annotations: the JSON file.
        images: the folder of its images.
        subcategories: the heads to read: integer fields of the annotations, whose class names stand in the
            file's top-level `subcategories`. A field that is absent or null is `UNKNOWN` (-1).
        skip_missing_heads: leave out the heads that the file does not list, instead of refusing it.
        tell_unused: where no head is asked for, remark on what looks like labels of one.

    Instances whose polygons all have fewer than three points are left out and counted, as detectron2 does. The list of
    annotations may be empty: a model that finds nothing writes such a file.

    Raises:
        DatasetError: with the first ten problems found and their number, each naming the entry, what was got
            and what is allowed; or the labels of a head are in another field than its own.
    """
    content = _read_json(annotations)
    image_entries, entries = (_entries(content, key, annotations) for key in ("images", "annotations"))
    if not image_entries:
        raise DatasetError(f"empty annotation file {annotations}: 'images' is an empty list")
    heads = content.get("subcategories") or {}
    if skip_missing_heads and isinstance(heads, Mapping):
        subcategories = [head for head in subcategories if head in heads]
    categories = Categories.from_dict(content, subcategories, source=str(annotations))
    problems: list[str] = []  # collected, so that one run shows more than the first of a thousand alike
    by_id = _read_images(image_entries, images.absolute(), problems)
    by_image, without_polygon = _read_annotations(entries, by_id, categories, problems)
    unnamed = _find_files(by_id.values(), images, annotations, problems)
    if problems:
        summary = f"{annotations}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DatasetError("\n  ".join([summary, *first_of(problems, SHOWN_PROBLEMS)]))
    unlabelled, remarks = find_labels(categories, entries, source=str(annotations))
    unused = unused_labels(content, entries) if tell_unused and not subcategories else None
    records = tuple(replace(image, annotations=tuple(by_image.get(i, ()))) for i, image in sorted(by_id.items()))
    return CocoDataset(
        name, annotations, images, categories, records, without_polygon, unnamed, unlabelled, tuple(remarks), unused
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DatasetError(f"annotation file {file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"annotation file {file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DatasetError(f"annotation file {file} is not in COCO's format: it holds no JSON object")
    return content


def _entries(content: dict[str, Any], key: str, file: Path) -> list[Any]:
    entries = content.get(key)
    if not isinstance(entries, list):
        raise DatasetError(f"annotation file {file} is not in COCO's format: it has no list {key!r}")
    return entries


def _read_images(entries: list[Any], folder: Path, problems: list[str]) -> dict[int, ImageRecord]:
    images: dict[int, ImageRecord] = {}
    for entry in entries:
        try:
            image = _parse_image(entry, folder)
        except ValueError as error:
            problems.append(f"image {_id(entry)}: {error}")
            continue
        if image.id in images:
            problems.append(f"image {image.id}: the id is given twice")
        images[image.id] = image
    return images


def _read_annotations(
    entries: list[Any], images: dict[int, ImageRecord], categories: Categories, problems: list[str]
) -> tuple[dict[int, list[Annotation]], int]:
    """The annotations by image id, and how many were left out because they have no valid polygon."""
    labels = {number: label for label, number in enumerate(categories.ids)}
    seen: set[int] = set()
    by_image: dict[int, list[Annotation]] = {}
    without_polygon = 0
    for entry in entries:
        try:
            annotation = _parse_annotation(entry, images, labels, categories.subcategories)
        except ValueError as error:
            problems.append(f"annotation {_id(entry)}: {error}")
            continue
        if entry["id"] in seen:
            problems.append(f"annotation {entry['id']}: the id is given twice")
        seen.add(entry["id"])
        if annotation is None:
            without_polygon += 1
        else:
            by_image.setdefault(entry["image_id"], []).append(annotation)
    return by_image, without_polygon


def _find_files(images: Iterable[ImageRecord], folder: Path, file: Path, problems: list[str]) -> int:
    """Note missing image files; returns how many other images are in the same folders."""
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} of {file} does not exist or is not a folder")
    # One listing per folder: on shared storage a request for each of 100,000 files takes minutes.
    listings: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    missing = []
    for image in images:
        parent, name = os.path.split(image.file)
        if parent not in listings:
            listings[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        named.setdefault(parent, set()).add(name)
        if name not in listings[parent]:
            missing.append(image.file.relative_to(folder.absolute()))
    if missing:
        problems.append(f"{len(missing)} of the image files are not in {folder}: {', '.join(first_of(missing, 3))}")
    others = (name for parent, names in named.items() for name in listings[parent] - names)
    return sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for name in others)


def _id(entry: object) -> str:
    return repr(entry.get("id")) if isinstance(entry, dict) else f"that reads {str(entry)[:60]!r}"


def _parse_image(entry: object, folder: Path) -> ImageRecord:
    """Check an entry of `images`; a ValueError says what is wrong with it. Its annotations come later."""
    if not isinstance(entry, dict):
        raise ValueError("an entry of 'images' must be an object {id, file_name, width, height}")
    name = entry.get("file_name")
    if not isinstance(name, str) or not PurePosixPath(name).name or "\0" in name:
        raise ValueError(f"file_name must be a relative path, got {name!r}")
    windows = PureWindowsPath(name)  # takes / and \ alike, so this also holds on a file made elsewhere
    if windows.anchor or ".." in windows.parts:
        raise ValueError(f"file_name {name!r} leaves the image folder; it must be relative and without '..'")
    number, width, height = (_integer(entry, key) for key in ("id", "width", "height"))
    if width < 1 or height < 1:
        raise ValueError(f"width and height must be 1 pixel at least, got {width} x {height}")
    return ImageRecord(number, folder / name, width, height, ())


def _parse_annotation(
    entry: object,
    images: Mapping[int, ImageRecord],
    labels: Mapping[int, int],
    subcategories: Mapping[str, Sequence[str]],
) -> Annotation | None:
    """Check an entry of `annotations`; a ValueError says what is wrong with it.

    Args:
        entry: the entry.
        images: the file's images by id.
        labels: the label of each category id.
        subcategories: the class names of each head.

    Returns:
        The annotation, or None if its polygons all have fewer than three points.
    """
    if not isinstance(entry, dict):
        raise ValueError("an entry of 'annotations' must be an object")
    number, image_id, category_id = (_integer(entry, key) for key in ("id", "image_id", "category_id"))
    if image_id not in images:
        raise ValueError(f"image_id {image_id} is not among the images")
    if category_id not in labels:
        known = ", ".join(first_of(sorted(labels), SHOWN_CATEGORIES))
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


def _box(entry: dict[str, Any], segmentation: Segmentation, image: ImageRecord) -> tuple[float, float, float, float]:
    if "bbox" not in entry:
        box = mask_utils.toBbox(to_rle(segmentation, image.height, image.width)).tolist()
    else:
        box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        raise ValueError(f"bbox must be four numbers [x, y, width, height], got {box!r}")
    if box[2] < 0 or box[3] < 0:  # COCO itself has boxes of width or height 0
        raise ValueError(f"bbox {box} has a negative size; COCO's boxes are [x, y, width, height] in pixels")
    return (float(box[0]), float(box[1]), float(box[2]), float(box[3]))


def _area(entry: dict[str, Any], segmentation: Segmentation, image: ImageRecord) -> float:
    if "area" not in entry:
        return float(mask_utils.area(to_rle(segmentation, image.height, image.width)))
    area = entry["area"]
    if not _is_number(area) or area < 0:
        raise ValueError(f"area must be a number of pixels, 0 at least, got {area!r}")
    return float(area)


def _is_number(value: object) -> bool:
    # Too large for a float is no number of pixels either.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
