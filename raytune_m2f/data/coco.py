"""Read a COCO instance file and check all of it, so that nothing after it needs to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.entries import ImageEntry, parse_annotation, parse_image
from raytune_m2f.data.images import IMAGE_SUFFIXES
from raytune_m2f.data.labels import find_labels
from raytune_m2f.data.records import Annotation, CocoDataset, ImageRecord, paused_gc
from raytune_m2f.errors import DatasetError, first_of

SHOWN_PROBLEMS = 10


@paused_gc()
def load_coco(
    name: str, annotations: Path, images: Path, subcategories: Sequence[str] = (), *, skip_missing_heads: bool = False
) -> CocoDataset:
    """Read a dataset in COCO's instance format; masks are checked but not decoded, images not opened.

    Args:
        name: the dataset's name.
        annotations: the JSON file.
        images: the folder of its images.
        subcategories: the heads to read: integer fields of the annotations, whose class names stand in the
            file's top-level `subcategories`. A field that is absent or null is `UNKNOWN` (-1).
        skip_missing_heads: leave out the heads that the file does not list, instead of refusing it.

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
    by_id = _read_images(image_entries, problems)
    by_image, without_polygon = _read_annotations(entries, by_id, categories, problems)
    unnamed = _find_files(by_id.values(), images, annotations, problems)
    if problems:
        summary = f"{annotations}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise DatasetError("\n  ".join([summary, *first_of(problems, SHOWN_PROBLEMS)]))
    unlabelled, remarks = find_labels(categories, entries, source=str(annotations))
    folder = images.absolute()
    records = tuple(
        ImageRecord(i, folder / image.file_name, image.width, image.height, tuple(by_image.get(i, ())))
        for i, image in sorted(by_id.items())
    )
    return CocoDataset(
        name, annotations, images, categories, records, without_polygon, unnamed, unlabelled, tuple(remarks)
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


def _read_images(entries: list[Any], problems: list[str]) -> dict[int, ImageEntry]:
    images: dict[int, ImageEntry] = {}
    for entry in entries:
        try:
            image = parse_image(entry)
        except ValueError as error:
            problems.append(f"image {_id(entry)}: {error}")
            continue
        if image.id in images:
            problems.append(f"image {image.id}: the id is given twice")
        images[image.id] = image
    return images


def _read_annotations(
    entries: list[Any], images: dict[int, ImageEntry], categories: Categories, problems: list[str]
) -> tuple[dict[int, list[Annotation]], int]:
    """The annotations by image id, and how many were left out because they have no valid polygon."""
    labels = {number: label for label, number in enumerate(categories.ids)}
    seen: set[int] = set()
    by_image: dict[int, list[Annotation]] = {}
    without_polygon = 0
    for entry in entries:
        try:
            annotation = parse_annotation(entry, images, labels, categories.subcategories)
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


def _find_files(images: Iterable[ImageEntry], folder: Path, file: Path, problems: list[str]) -> int:
    """Note missing image files; returns how many other images are in the same folders."""
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} of {file} does not exist or is not a folder")
    # One listing per folder: on shared storage a request for each of 100,000 files takes minutes.
    listings: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    missing = []
    for image in images:
        parent, name = os.path.split(os.path.join(folder, image.file_name))
        if parent not in listings:
            listings[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        named.setdefault(parent, set()).add(name)
        if name not in listings[parent]:
            missing.append(image.file_name)
    if missing:
        problems.append(f"{len(missing)} of the image files are not in {folder}: {', '.join(first_of(missing, 3))}")
    others = (listings[parent] - names for parent, names in named.items())
    return sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for names in others for name in names)


def _id(entry: object) -> str:
    return repr(entry.get("id")) if isinstance(entry, dict) else f"that reads {str(entry)[:60]!r}"
