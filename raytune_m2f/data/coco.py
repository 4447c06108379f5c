"""Read a COCO instance file and check all of it, so that nothing after it needs to."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.entries import ImageEntry, parse_annotation, parse_image
from raytune_m2f.data.labels import nothing_known, search
from raytune_m2f.data.records import Annotation, CocoDataset, ImageRecord, without_collection
from raytune_m2f.errors import DatasetError

SHOWN_PROBLEMS = 10
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""Of files that are taken for images of a folder."""


class _Problems:
    """What is wrong with a file, collected, so that one run shows more than the first of a thousand alike."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.shown: list[str] = []
        self.count = 0

    def add(self, problem: str) -> None:
        self.count += 1
        if len(self.shown) < SHOWN_PROBLEMS:
            self.shown.append(problem)

    def raise_if_any(self) -> None:
        if not self.count:
            return
        lines = [f"{self.file}: {self.count} problem{'s' if self.count > 1 else ''}", *self.shown]
        if self.count > len(self.shown):
            lines.append(f"... and {self.count - len(self.shown)} more")
        raise DatasetError("\n  ".join(lines))


@without_collection()
def load_coco(
    name: str, annotations: Path, images: Path, subcategories: Sequence[str] = (), *, if_there: bool = False
) -> CocoDataset:
    """Read a dataset in COCO's instance format; masks are checked but not decoded, images not opened.

    Args:
        name: the dataset's name.
        annotations: the JSON file.
        images: the folder of its images.
        subcategories: the heads to read: integer fields of the annotations, whose class names stand in the
            file's top-level `subcategories`. A field that is absent or null is `UNKNOWN` (-1).
        if_there: leave out the heads that the file does not list, instead of refusing it.

    Instances whose polygons all have fewer than three points are left out and counted, as detectron2 does. The list of
    annotations may be empty, as in what a model predicts that finds nothing.

    Raises:
        DatasetError: with the first ten problems found and their number, each naming the entry, what was got
            and what is allowed; or the labels of a head are in another field than its own.
    """
    content = _read_json(annotations)
    entries = _entries(content, "images", annotations), _entries(content, "annotations", annotations)
    if not entries[0]:
        raise DatasetError(f"empty annotation file {annotations}: 'images' is an empty list")
    listed = content.get("subcategories") or {}
    if if_there and isinstance(listed, Mapping):
        subcategories = [head for head in subcategories if head in listed]
    categories = Categories.from_dict(content, subcategories, source=str(annotations))
    problems = _Problems(annotations)
    by_id = _read_images(entries[0], problems)
    by_image, without_polygon = _read_annotations(entries[1], by_id, categories, problems)
    unnamed = _find_files(by_id.values(), images, problems)
    problems.raise_if_any()
    unlabelled, remarks = find_labels(categories, entries[1], source=str(annotations))
    folder = images.absolute()
    records = tuple(
        ImageRecord(i, folder / image.file_name, image.width, image.height, tuple(by_image.get(i, ())))
        for i, image in sorted(by_id.items())
    )
    return CocoDataset(
        name,
        annotations,
        images,
        categories,
        records,
        without_polygon=without_polygon,
        unnamed_files=unnamed,
        unlabelled=unlabelled,
        remarks=tuple(remarks),
    )


def find_labels(
    categories: Categories, entries: Sequence[Mapping[str, Any]], *, source: str
) -> tuple[dict[str, str], list[str]]:
    """Whether the annotations label every head in the head's own field.

    Returns:
        `CocoDataset.unlabelled`, and remarks on labels of some annotations that are elsewhere.

    Raises:
        DatasetError: no annotation has a label there, but in another field.
    """
    unlabelled: dict[str, str] = {}
    remarks: list[str] = []
    for head, classes in categories.subcategories.items():
        known = sum(entry.get(head) is not None for entry in entries)
        if known == len(entries):
            continue
        found = search(entries, head, classes, by_name=known > 0)
        if known == 0:
            unlabelled[head] = nothing_known(head, classes, found, len(entries))
            if found.values:
                raise DatasetError(f"{source}: {unlabelled[head]}")
        elif found.values:
            remarks.append(
                f"{found.count} annotations have no label in the field {head!r}, but one that is not read in {found}"
            )
    return unlabelled, remarks


def check_same_labels(train: CocoDataset, test: CocoDataset) -> None:
    """Refuse two datasets whose labels do not mean the same.

    Raises:
        DatasetError: the first category or subcategory list that differs, with both files.
    """
    ours, theirs = train.categories, test.categories
    lists: list[tuple[str, object, object]] = [
        (
            "categories",
            dict(zip(ours.ids, ours.names, strict=True)),
            dict(zip(theirs.ids, theirs.names, strict=True)),
        )
    ]
    for head in [*ours.subcategories, *(h for h in theirs.subcategories if h not in ours.subcategories)]:
        lists.append((f"subcategories {head!r}", ours.subcategories.get(head), theirs.subcategories.get(head)))
    for what, mine, other in lists:
        if mine != other:
            raise DatasetError(
                f"{what} differ between the datasets {train.name!r} and {test.name!r}, so their labels do "
                f"not mean the same.\n  {train.annotations_file}: {mine}\n  {test.annotations_file}: {other}"
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


def _read_images(entries: list[Any], problems: _Problems) -> dict[int, ImageEntry]:
    images: dict[int, ImageEntry] = {}
    for entry in entries:
        try:
            image = parse_image(entry)
        except ValueError as error:
            problems.add(f"image {_id(entry)}: {error}")
            continue
        if image.id in images:
            problems.add(f"image {image.id}: the id is given twice")
        images[image.id] = image
    return images


def _read_annotations(
    entries: list[Any], images: dict[int, ImageEntry], categories: Categories, problems: _Problems
) -> tuple[dict[int, list[Annotation]], int]:
    """The annotations of each image, and how many were left out for want of a polygon."""
    labels = {number: label for label, number in enumerate(categories.ids)}
    seen: set[int] = set()
    by_image: dict[int, list[Annotation]] = {}
    without_mask = 0
    for entry in entries:
        try:
            annotation = parse_annotation(entry, images, labels, categories.subcategories)
        except ValueError as error:
            problems.add(f"annotation {_id(entry)}: {error}")
            continue
        if entry["id"] in seen:
            problems.add(f"annotation {entry['id']}: the id is given twice")
        seen.add(entry["id"])
        if annotation is None:
            without_mask += 1
        else:
            by_image.setdefault(entry["image_id"], []).append(annotation)
    return by_image, without_mask


def _find_files(images: Iterable[ImageEntry], folder: Path, problems: _Problems) -> int:
    """Note the files that are not there; returns how many images in the same folders the file does not name."""
    if not folder.is_dir():
        raise DatasetError(f"image folder {folder} of {problems.file} does not exist or is not a folder")
    missing, unnamed = _compare(images, str(folder))
    if missing:
        problems.add(
            f"{len(missing)} of the image files are not in {folder}: {', '.join(missing[:3])}"
            + (", ..." if len(missing) > 3 else "")
        )
    return unnamed


def _compare(images: Iterable[ImageEntry], folder: str) -> tuple[list[str], int]:
    # One listing a folder: on shared storage a question for each of 100,000 files takes minutes.
    listed: dict[str, set[str]] = {}
    named: dict[str, set[str]] = {}
    missing = []
    for image in images:
        parent, name = os.path.split(os.path.join(folder, image.file_name))
        if parent not in listed:
            listed[parent] = set(os.listdir(parent)) if os.path.isdir(parent) else set()
        named.setdefault(parent, set()).add(name)
        if name not in listed[parent]:
            missing.append(image.file_name)
    others = (listed[parent] - names for parent, names in named.items())
    return missing, sum(Path(name).suffix.lower() in IMAGE_SUFFIXES for names in others for name in names)


def _id(entry: object) -> str:
    return repr(entry.get("id")) if isinstance(entry, dict) else f"that reads {str(entry)[:60]!r}"
