"""What a dialect gives before its image files are found."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from raytune_m2f.project.export import Item, Value

PARTS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
SHOWN = 3


@dataclass(frozen=True)
class Draft:
    """An image as an export describes it.

    Attributes:
        name: what the export calls the image: a path, an address, with `any_suffix` a path without its suffix.
        items: its objects, in coordinates of an image of `size`.
        size: width and height that the coordinates belong to; None: not known, they are pixels of the file.
        shares: coordinates are shares of the sides, of which `size` is the whole: (1, 1), or (100, 100) for percent.
        fields: what is said of the image.
        part: "train", "val" or "test", where the export says so.
        base: the folder that `name` may be relative to, beside the folders of images.
        aliases: other names, tried after `name`.
        any_suffix: `name` has no suffix.
    """

    name: str
    items: tuple[Item, ...]
    size: tuple[float, float] | None = None
    shares: bool = False
    fields: Mapping[str, Value] = field(default_factory=dict)
    part: str | None = None
    base: Path | None = None
    aliases: tuple[str, ...] = ()
    any_suffix: bool = False


class Notes:
    """What was changed or left out, counted by kind, with the first examples."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str = "", number: int = 1) -> None:
        """Count one more. `kind` ends before the number: "points and lines, which have no area, are left out"."""
        self._counts[kind] = self._counts.get(kind, 0) + number
        shown = self._examples.setdefault(kind, [])
        if example and len(shown) <= SHOWN and example not in shown:
            shown.append(example)

    def lines(self) -> tuple[str, ...]:
        """A line for each kind: what, how many, the first examples."""
        return tuple(f"{kind}: {count}{self._shown(kind)}" for kind, count in self._counts.items())

    def _shown(self, kind: str) -> str:
        examples = self._examples[kind]
        more = ["..."] if len(examples) > SHOWN else []
        return f" ({'; '.join([*examples[:SHOWN], *more])})" if examples else ""


@dataclass
class Reading:
    """One annotation file, or folder of them, read; image files not yet found.

    Attributes:
        dialect, files, categories, classes: as in Export.
        drafts: its images.
        notes: what was left out.
        advice: what helps where image files are not found; begins with a blank.
    """

    dialect: str
    files: tuple[Path, ...]
    categories: tuple[str, ...]
    drafts: list[Draft]
    notes: Notes
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    advice: str = ""


def part_of(path: PurePath) -> str | None:
    """The part that a file's name speaks of, else its folder's: "instances_train2017.json" is of "train"."""
    for name in (path.stem, path.parent.name):
        found = {PARTS[word] for word in re.split(r"[^a-z]+", name.casefold()) if word in PARTS}
        if len(found) == 1:
            return found.pop()
    return None
