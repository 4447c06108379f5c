"""The fields of an annotation, wherever in it they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

COCO_FIELDS = frozenset({"id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd", "keypoints"})
VALUE_KEYS = ("value", "values", "text", "label")
"""Where an object {name, value} holds the value."""
MAX_DEPTH = 4  # of nested objects
MAX_LENGTH = 50  # entries of a list that are inspected
SHOWN = 4


@dataclass(frozen=True)
class Entry:
    """A value somewhere in an annotation, its place and key, and the object that holds it."""

    place: str
    key: str
    value: object
    siblings: Mapping[str, Any]

    def may_be_label(self, head: str, names: set[str]) -> bool:
        """Whether the value may be a label of `head`, whose classes have these normalized names."""
        if self.value is None or self.place == head:
            return False
        wanted, key = normalized(head), normalized(self.key)
        if key == wanted or (isinstance(self.value, str) and normalized(self.value) in names):
            return True
        if key in VALUE_KEYS and any(isinstance(v, str) and normalized(v) == wanted for v in self.siblings.values()):
            return True
        return self.value is True and key in names


def entries_of(inside: Mapping[str, Any], place: str = "", depth: int = 0) -> Iterator[Entry]:
    """All values of an annotation, of nested objects and lists too."""
    for key, value in inside.items():
        if depth == 0 and key in COCO_FIELDS:
            continue
        where = f"{place}.{key}" if place else key
        if not isinstance(value, Mapping):
            yield Entry(where, key, value, inside)
        for part in value[:MAX_LENGTH] if isinstance(value, list) else [value]:
            if isinstance(part, Mapping) and depth < MAX_DEPTH:
                yield from entries_of(part, where if part is value else f"{where}[]", depth + 1)
            elif part is not value:
                yield Entry(f"{where}[]", "", part, {})


def normalized(name: str) -> str:
    """A name as it is compared: without upper case, blanks and hyphens."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def counted(values: Counter[str]) -> str:
    """The most frequent values with their numbers, for a message."""
    shown = ", ".join(f"{value} ({count})" for value, count in values.most_common(SHOWN))
    return shown + (", ..." if len(values) > SHOWN else "")
