"""Datasets as detectron2's catalogs hold them: lists of dictionaries, beside the names of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_utils

from raytune_m2f.data import Annotation, Categories, CocoDataset, ImageRecord
from raytune_m2f.data.labels import find_labels
from raytune_m2f.data.masks import Segmentation, parse_segmentation, to_rle
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.model import UNKNOWN

XYWH = 1
"""detectron2's BoxMode.XYWH_ABS; a number here, for this module does without detectron2."""


def dicts_of(dataset: CocoDataset) -> list[dict[str, Any]]:
    """In detectron2's format, with every subcategory as a field of its annotation."""
    return [
        {
            "file_name": str(record.file),
            "image_id": record.id,
            "height": record.height,
            "width": record.width,
            "annotations": [_annotation_dict(annotation) for annotation in record.annotations],
        }
        for record in dataset.records
    ]


def _annotation_dict(annotation: Annotation) -> dict[str, Any]:
    shape = annotation.segmentation
    return {
        "bbox": list(annotation.bbox),
        "bbox_mode": XYWH,
        "category_id": annotation.label,
        "segmentation": dict(shape) if isinstance(shape, dict) else [list(polygon) for polygon in shape],
        "iscrowd": int(annotation.iscrowd),
        "area": annotation.area,
        **annotation.sublabels,
    }


def metadata_of(dataset: CocoDataset) -> dict[str, Any]:
    """What MetadataCatalog holds of it: detectron2's entries, and the class names of every head."""
    categories = dataset.categories
    return {
        "json_file": str(dataset.annotations_file),
        "image_root": str(dataset.image_dir),
        "evaluator_type": "coco",
        "thing_classes": list(categories.names),
        "thing_dataset_id_to_contiguous_id": {number: i for i, number in enumerate(categories.ids)},
        "subcategories": {head: list(names) for head, names in categories.subcategories.items()},
    }


def categories_of(name: str, metadata: Mapping[str, Any], heads: Sequence[str]) -> Categories:
    """The names of a dataset's classes, from its entry in MetadataCatalog.

    Raises:
        ConfigError: there are none, or none of a head.
    """
    names = metadata.get("thing_classes")
    if not names:
        raise ConfigError(f"data set {name!r}: MetadataCatalog has no thing_classes of it: set them where it is made.")
    known = metadata.get("subcategories", {})
    if missing := [head for head in heads if head not in known]:
        raise ConfigError(
            f"DATASETS.SUBCATEGORIES: data set {name!r} has no class names of {', '.join(missing)}: where it is "
            "registered, set MetadataCatalog.get(name).subcategories = {head: [class name, ...]}."
        )
    ids = list(metadata.get("thing_dataset_id_to_contiguous_id") or range(1, len(names) + 1))
    return Categories(
        ids=tuple(ids) if ids == sorted(ids) else tuple(range(1, len(names) + 1)),
        names=tuple(names),
        subcategories={head: tuple(known[head]) for head in heads},
    )


def dataset_of(name: str, dicts: Sequence[Mapping[str, Any]], categories: Categories) -> CocoDataset:
    """The dictionaries of a dataset, whose boxes are XYWH, checked; images are not opened.

    An annotation without a mask has its box's.

    Raises:
        DatasetError: of the first entry that is wrong.
    """
    records = []
    for entry in dicts:
        where = f"data set {name!r}, image {entry.get('file_name')}"
        try:
            number, height, width = (int(entry[key]) for key in ("image_id", "height", "width"))
            annotations = tuple(
                _annotation(annotation, i, height, width, categories)
                for i, annotation in enumerate(entry.get("annotations", ()), start=1)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: {error!r}: not as detectron2's dataset dictionaries are") from error
        records.append(ImageRecord(number, Path(entry["file_name"]), width, height, annotations))
    if len({record.id for record in records}) < len(records):
        raise DatasetError(f"data set {name!r}: two images have the same image_id")
    source = Path(f"data set {name!r}")
    entries = [annotation for entry in dicts for annotation in entry.get("annotations", ())]
    unlabelled, remarks = find_labels(categories, entries, source=str(source))
    records.sort(key=lambda record: record.id)
    return CocoDataset(name, source, source, categories, tuple(records), unlabelled=unlabelled, remarks=tuple(remarks))


def _annotation(entry: Mapping[str, Any], number: int, height: int, width: int, categories: Categories) -> Annotation:
    label = entry["category_id"]
    if not 0 <= label < len(categories):
        raise ValueError(f"category_id {label} of annotation {number}, allowed: 0 to {len(categories) - 1}")
    sublabels = {head: entry.get(head, UNKNOWN) for head in categories.subcategories}
    for head, value in sublabels.items():
        if not UNKNOWN <= value < categories.sizes[head]:
            raise ValueError(f"{head} {value} of annotation {number}, allowed: -1 to {categories.sizes[head] - 1}")
    shape = _shape(entry, height, width)
    area = entry["area"] if "area" in entry else float(mask_utils.area(to_rle(shape, height, width)))
    left, top, box_width, box_height = entry["bbox"]
    return Annotation(
        id=number,
        label=label,
        segmentation=shape,
        bbox=(left, top, box_width, box_height),
        area=area,
        iscrowd=bool(entry.get("iscrowd", 0)),
        sublabels=sublabels,
    )


def _shape(entry: Mapping[str, Any], height: int, width: int) -> Segmentation:
    shape = entry.get("segmentation")
    if isinstance(shape, Mapping) and isinstance(shape["counts"], bytes):
        shape = {**shape, "counts": shape["counts"].decode("ascii")}
    if not shape:
        left, top, box_width, box_height = entry["bbox"]
        right, bottom = left + box_width, top + box_height
        shape = [[left, top, right, top, right, bottom, left, bottom]]
    parsed = parse_segmentation(shape, height, width)
    if parsed is None:
        raise ValueError("a segmentation without a polygon of three points")
    return parsed
