"""What the export of any annotation tool comes to: pictures and their objects, with every field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Polygons = tuple[tuple[float, ...], ...]
"""One object's outlines, each x, y, x, y, ... in pixels; their union is the mask."""
Value = str | int | float | bool
"""What a field says of an object. A list or a nested object has become several fields before."""


@dataclass(frozen=True, slots=True)
class Item:
    """One annotated object.

    Attributes:
        category: the name of its main category.
        segmentation: polygons, or run lengths {"size": [height, width], "counts": list or text} as COCO has them (an
            object with holes needs them); None: the export has a box or a point only, no mask.
        crowd: a region of many objects (COCO's iscrowd 1).
        fields: everything else that is said of it, by place: {"attributes.ripeness": "ripe", "occluded": False}; the
            value is a name wherever the export says what a number stands for.
        origin: where it stands, for messages: "train.json, annotation 17".
    """

    category: str
    segmentation: Polygons | dict[str, Any] | None
    crowd: bool
    fields: Mapping[str, Value]
    origin: str


@dataclass(frozen=True, slots=True)
class Picture:
    """One image and its objects.

    Attributes:
        file: absolute path of an image file that exists.
        width, height: in pixels, as our own reader gives the image (EXIF rotation applied).
        items: its objects; may be empty.
        fields: what is said of the image, by place: {"video_id": 3}; images can be grouped by it.
        part: "train", "val" or "test" where the export says so; else None.
    """

    file: Path
    width: int
    height: int
    items: tuple[Item, ...]
    fields: Mapping[str, Value] = field(default_factory=dict)
    part: str | None = None


@dataclass(frozen=True)
class Export:
    """One or several files of a tool, read.

    Attributes:
        dialect: what was read, in words: "COCO with attributes (CVAT)".
        files: the annotation files.
        categories: all names that the export lists, in its order, also those without an object.
        pictures: in the order of the export.
        classes: the values that a field may have, in order, where the export lists them: {"attributes.ripeness":
            ("green", "ripe")}.
        notes: what was changed or left out on reading, each with its number; shown to the user.
    """

    dialect: str
    files: tuple[Path, ...]
    categories: tuple[str, ...]
    pictures: tuple[Picture, ...]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> Iterator[Item]:
        """All objects."""
        return (item for picture in self.pictures for item in picture.items)
