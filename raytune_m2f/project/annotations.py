"""Annotations in our form: COCO's, and for each head its classes and an integer label (docs/own_data.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from raytune_m2f.data.masks import Segmentation
from raytune_m2f.project.fields import Head
from raytune_m2f.project.masks import Masked, Photo


def annotations_of(photos: Iterable[Photo], categories: Sequence[str], heads: Sequence[Head]) -> dict[str, Any]:
    """The content of an annotation file. Ids count from 1; boxes and areas are those of the masks.

    Args:
        categories: their names, in the order of their ids.
    """
    ids = {name: number for number, name in enumerate(categories, start=1)}
    images: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    for number, photo in enumerate(photos, start=1):
        picture = photo.picture
        images.append({"id": number, "file_name": photo.name, "width": picture.width, "height": picture.height})
        for thing in photo.things:
            entry = {"id": len(entries) + 1, "image_id": number, "category_id": ids[thing.item.category]}
            entries.append(entry | _entry(thing, heads))
    return {
        "images": images,
        "categories": [{"id": number, "name": name} for name, number in ids.items()],
        "subcategories": {head.name: list(head.classes) for head in heads},
        "annotations": entries,
    }


def _entry(thing: Masked, heads: Sequence[Head]) -> dict[str, Any]:
    labels = {head.name: head.label(thing.item.fields) for head in heads}
    return {
        "iscrowd": int(thing.item.crowd),
        "bbox": list(thing.box),
        "area": thing.area,
        "segmentation": _segmentation(thing.segmentation),
        **{name: label for name, label in labels.items() if label is not None},
    }


def _segmentation(segmentation: Segmentation) -> Any:
    return segmentation if isinstance(segmentation, dict) else [polygon.tolist() for polygon in segmentation]
