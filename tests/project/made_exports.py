"""Exports made by hand: small pictures with square objects, for the tests of what comes after reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from raytune_m2f.project.export import Export, Item, Picture, Value

SIDE = 40
Said = tuple[str, Mapping[str, Value]]
"""A category, and the fields of an object."""


def square(number: int, size: int = 8) -> tuple[tuple[float, ...], ...]:
    """A square that lies elsewhere for each of the first 16 numbers."""
    left, top = number % 4 * 10.0, number // 4 % 4 * 10.0
    return ((left, top, left + size, top, left + size, top + size, left, top + size),)


def item(number: int, category: str, fields: Mapping[str, Value] | None = None, **changed: Any) -> Item:
    """An object with a mask of 64 pixels."""
    values: dict[str, Any] = {
        "category": category,
        "segmentation": square(number),
        "crowd": False,
        "fields": fields or {},
        "origin": f"made.json, annotation {number}",
    }
    return Item(**{**values, **changed})


def picture(folder: Path, name: str, items: Sequence[Item], **changed: Any) -> Picture:
    """An image file of that name, made if it is not there, with these objects."""
    file = folder / name
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (SIDE, SIDE), 100).save(file)
    return Picture(**{"file": file, "width": SIDE, "height": SIDE, "items": tuple(items), **changed})


def export(pictures: Sequence[Picture], classes: Mapping[str, tuple[str, ...]] | None = None, **changed: Any) -> Export:
    """What reading gives, with the categories of the objects."""
    categories = tuple(dict.fromkeys(one.category for picture in pictures for one in picture.items))
    values: dict[str, Any] = {
        "dialect": "made by hand",
        "files": (Path("made.json"),),
        "categories": categories,
        "pictures": tuple(pictures),
        "classes": classes or {},
    }
    return Export(**{**values, **changed})


def pictures_of(folder: Path, said: Sequence[Sequence[Said]], **changed: Any) -> list[Picture]:
    """A picture for each list of what is said of its objects: 000.png, 001.png and so on."""
    return [
        picture(folder, f"{n:03d}.png", [item(k, *one) for k, one in enumerate(objects)], **changed)
        for n, objects in enumerate(said)
    ]
