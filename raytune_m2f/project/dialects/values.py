"""What a tool says of an object, as fields: names, numbers and truth values, each by its place."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from raytune_m2f.project.dialects.draft import Notes
from raytune_m2f.project.export import Value

Said = dict[str, Value | tuple[str, ...]]
"""Fields before `FieldReader.finish`: a tuple is a list of words."""

NAMES, VALUES = ("name", "key", "attribute"), ("value", "values", "text", "label")
"""Where an object {name, value} in a list of attributes has them."""
DEEPEST = 4  # of objects in objects
LONGEST = 300  # characters of a value; what is longer is no label
MOST_WORDS = 40  # different words of a list that become fields of their own
LARGEST = 1e9  # of a coordinate or a size


def number(value: object) -> float | None:
    """A finite number, also one that is written as text; else None."""
    if isinstance(value, str) and len(value) < 40:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        return None
    return float(value)


def size_of(width: object, height: object) -> tuple[float, float] | None:
    """Width and height of an image, where both are known."""
    first, second = number(width), number(height)
    return (first, second) if first is not None and second is not None and min(first, second) >= 1 else None


def word(value: object) -> str:
    """A name as clean text, "" for what is none: a tool may write numbers for names, or half a character."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    if isinstance(value, int) and abs(value) > 10**30:
        return ""
    return str(value).encode("utf-8", "replace").decode("utf-8").replace("\0", "").strip()


def dictionary(value: object) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def listed(value: object) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def plain(value: object) -> Value | None:
    """A single value; None for nothing, for nan, and for what is no single value."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 10**30 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return word(value) or None


class FieldReader:
    """Makes fields of what is said; lists of words become one field for each word, once all have been read."""

    def __init__(self, notes: Notes) -> None:
        self._notes = notes
        self._words: dict[str, dict[str, None]] = {}
        self._several: set[str] = set()

    def read(self, said: Mapping[str, Any], place: str = "", *, skip: Collection[str] = ()) -> Said:
        """The fields of an object {name: value, ...}; those of objects in it are named "outer.inner"."""
        return dict(self._read(said, place, skip, 0))

    def finish(self, said: Said) -> dict[str, Value]:
        """The fields with every list of words resolved: to the word, where all lists at that place have one at most;
        else to True and False for each word that stands in any of them."""
        fields: dict[str, Value] = {}
        for place, value in said.items():
            if not isinstance(value, tuple):
                fields[place] = value
            elif place not in self._several:
                fields.update({place: value[0]} if value else {})
            elif len(self._words[place]) > MOST_WORDS:
                self._notes.add(f"lists of more than {MOST_WORDS} different words are left out: {place!r}")
            else:
                fields.update({f"{place}.{name}": name in value for name in self._words[place]})
        return fields

    def _read(
        self, said: Mapping[str, Any], place: str, skip: Collection[str], depth: int
    ) -> Iterator[tuple[str, Value | tuple[str, ...]]]:
        for key, value in said.items():
            name = word(key)
            if key in skip or not name:
                continue
            where = f"{place}.{name}" if place else name
            if isinstance(value, dict):
                if depth < DEEPEST:
                    yield from self._read(value, where, (), depth + 1)
                else:
                    self._notes.add(f"objects in objects, more than {DEEPEST} deep, are left out: {where!r}")
            elif isinstance(value, list):
                yield from self._list(value, where, depth)
            elif isinstance(value, str) and len(value) > LONGEST:
                self._notes.add(f"texts of more than {LONGEST} characters are left out: {where!r}")
            elif (single := plain(value)) is not None:
                yield where, single

    def _list(self, values: list[Any], where: str, depth: int) -> Iterator[tuple[str, Value | tuple[str, ...]]]:
        if pairs := _pairs(values):
            yield from self._read(pairs, where, (), depth + 1) if depth < DEEPEST else ()
        elif all(isinstance(value, str) and len(value) <= LONGEST for value in values):
            words = tuple(dict.fromkeys(name for value in values if (name := word(value))))
            self._words.setdefault(where, {}).update(dict.fromkeys(words))
            if len(words) > 1:
                self._several.add(where)
            yield where, words
        elif values:
            self._notes.add(f"lists of numbers or objects are left out: {where!r}")


def _pairs(values: list[Any]) -> dict[str, Any]:
    """The content of [{"name": "ripeness", "value": "ripe"}, ...]; empty if it is no such list."""
    found: dict[str, Any] = {}
    for value in values:
        name = next((word(value[key]) for key in NAMES if key in value), "") if isinstance(value, dict) else ""
        inner = next((key for key in VALUES if key in value), None) if name else None
        if inner is None:
            return {}
        found[name] = value[inner]
    return found
