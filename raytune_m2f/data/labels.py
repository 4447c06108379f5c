"""Find subcategory labels that an annotation file holds elsewhere than in the field of their head.

Annotation tools put them into an `attributes` object, write the class as text, or spell the field otherwise. Such
labels would count as unknown, and the head would learn nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.fields import FieldValues
from raytune_m2f.errors import DatasetError, first_of
from raytune_m2f.notes import Note

COCO_FIELDS = frozenset({"id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd", "keypoints"})
VALUE_KEYS = ("value", "values", "text", "label")
"""Where an object {name, value} holds the value."""
MAX_DEPTH = 4  # of nested objects
MAX_LENGTH = 50  # entries of a list that are inspected
SHOWN = 4
MOST_INSPECTED = 20_000
"""Annotations that are searched for labels that nobody has asked for."""


def find_labels(
    categories: Categories, entries: Sequence[Mapping[str, Any]], *, source: str
) -> tuple[dict[str, str], list[Note]]:
    """Check that the annotations (entries of a COCO file) label every head in the head's own field.

    Returns:
        `CocoDataset.unlabelled`, and remarks on labels of some annotations that are in another field.

    Raises:
        DatasetError: no annotation has a label there, but in another field.
    """
    unlabelled: dict[str, str] = {}
    remarks: list[Note] = []
    for head, classes in categories.subcategories.items():
        known = sum(entry.get(head) is not None for entry in entries)
        if known == len(entries):
            continue
        found = _search(entries, head, classes, by_name=known > 0)
        if known == 0:
            unlabelled[head] = _unlabelled_message(head, classes, found, len(entries))
            if found.values:
                raise DatasetError(f"{source}: {unlabelled[head]}")
        elif found.values:
            seen = f"{found.count} annotations have no label in the field {head!r}, but one that is not read in {found}"
            remarks.append(Note("data/labels", seen, "", f"Give them the index of their class in the field {head!r}"))
    return unlabelled, remarks


def wrong_label_message(head: str, value: object, classes: Sequence[str]) -> str:
    """The error message for a wrong value in the field of a head: what is allowed, and what was probably intended."""
    shown = ", ".join(classes[:12]) + (", ..." if len(classes) > 12 else "")
    allowed = f"{head} = {value!r}, allowed is an integer from 0 to {len(classes) - 1} ({shown})"
    known = {_normalized(name): index for index, name in enumerate(classes)}
    if isinstance(value, str) and _normalized(value) in known:
        return f"{allowed}; write the index of {value!r}, {known[_normalized(value)]}"
    if value == len(classes) and type(value) is int:
        return f"{allowed}; classes are counted from 0"
    return f"{allowed}; leave the field out where the class is unknown"


def unused_labels(content: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> Note | None:
    """What looks like labels in a file of which no head is read; None if nothing does.

    Args:
        content: of the file: its `subcategories` are heads that need their names only.
        entries: its annotations, of which the first are searched.
    """
    listed = content.get("subcategories")
    heads = [head for head in listed if isinstance(head, str)] if isinstance(listed, Mapping) else []
    if ready := [head for head in heads if any(entry.get(head) is not None for entry in entries)]:
        seen = f"the annotations have labels of {', '.join(first_of(ready, SHOWN))}"
        remedy = f"DATASETS.SUBCATEGORIES=[{','.join(ready)}] learns them"
    elif likely := _likely_labels(entries[:MOST_INSPECTED]):
        places = first_of([f"{values.place}: {_counts(values.counts)}" for values in likely], SHOWN)
        seen = f"the annotations seem to have labels in {'; '.join(places)}"
        remedy = "`raytune-m2f init` makes heads of them (docs/init.md)"
    else:
        return None
    return Note("data/fields", seen, "DATASETS.SUBCATEGORIES is empty: nothing but the categories is learnt", remedy)


def _likely_labels(entries: Sequence[Mapping[str, Any]]) -> list[FieldValues]:
    """The fields that are labels beyond doubt."""
    fields: dict[str, FieldValues] = {}
    for entry in entries:
        for found in _fields(entry):
            if isinstance(found.value, bool | int | float | str):
                values = fields.setdefault(found.place, FieldValues(found.place))
                values.add(found.value, entry.get("category_id"))
    return [values for values in fields.values() if not values.unlikely(len(entries))]


@dataclass
class _Found:
    """What may be labels of a head, in annotations that have none in the head's own field.

    Attributes:
        values: for each place, such as `attributes.ripeness`, how often which value.
        fields: the other fields that these annotations have, and how often.
    """

    values: dict[str, Counter[str]] = field(default_factory=dict)
    fields: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """In how many annotations, at least."""
        return max((sum(values.values()) for values in self.values.values()), default=0)

    def __str__(self) -> str:
        return "; ".join(f"{place}: {_counts(values)}" for place, values in list(self.values.items())[:SHOWN])


def _search(entries: Sequence[Mapping[str, Any]], head: str, classes: Sequence[str], *, by_name: bool) -> _Found:
    """Search all fields of the annotations without a label of `head`.

    Args:
        by_name: accept only fields that are named like the head, not any that holds the name of a class.
    """
    names, found = set() if by_name else {_normalized(name) for name in classes}, _Found()
    for entry in entries:
        if entry.get(head) is not None:
            continue
        found.fields.update(key for key in entry if key not in COCO_FIELDS and key != head)
        for place, value in {f.place: f.value for f in _fields(entry) if f.may_be_label(head, names)}.items():
            found.values.setdefault(place, Counter())[repr(value)] += 1
    return found


def _unlabelled_message(head: str, classes: Sequence[str], found: _Found, annotations: int) -> str:
    """Why a head has no label in a file, and what to do."""
    listed = ", ".join(f"{index} = {name}" for index, name in enumerate(classes))
    if found.values:
        seen = f"What looks like them is in another place: {found}."
    elif found.fields:
        seen = f"Beside COCO's own fields the annotations have {_counts(found.fields)}."
    else:
        seen = "The annotations have none but COCO's own fields."
    return (
        f"not one of the {annotations} annotations has a label of the subcategory {head!r}, so its head has nothing "
        f'to learn from or to be scored by. {seen} Give each annotation an integer field "{head}" ({listed}), or '
        "take the head out of DATASETS.SUBCATEGORIES."
    )


@dataclass(frozen=True)
class _Field:
    """A value somewhere in an annotation, its place and key, and the object that holds it."""

    place: str
    key: str
    value: object
    siblings: Mapping[str, Any]

    def may_be_label(self, head: str, names: set[str]) -> bool:
        """Whether the value may be a label of `head`, whose classes have these normalized names."""
        if self.value is None or self.place == head:
            return False
        wanted, key = _normalized(head), _normalized(self.key)
        if key == wanted or (isinstance(self.value, str) and _normalized(self.value) in names):
            return True
        if key in VALUE_KEYS and any(isinstance(v, str) and _normalized(v) == wanted for v in self.siblings.values()):
            return True
        return self.value is True and key in names


def _fields(inside: Mapping[str, Any], place: str = "", depth: int = 0) -> Iterator[_Field]:
    """All values of an annotation, of nested objects and lists too."""
    for key, value in inside.items():
        if depth == 0 and key in COCO_FIELDS:
            continue
        where = f"{place}.{key}" if place else key
        if not isinstance(value, Mapping):
            yield _Field(where, key, value, inside)
        for part in value[:MAX_LENGTH] if isinstance(value, list) else [value]:
            if isinstance(part, Mapping) and depth < MAX_DEPTH:
                yield from _fields(part, where if part is value else f"{where}[]", depth + 1)
            elif part is not value:
                yield _Field(f"{where}[]", "", part, {})


def _normalized(name: str) -> str:
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def _counts(values: Counter[str]) -> str:
    shown = ", ".join(f"{value} ({count})" for value, count in values.most_common(SHOWN))
    return shown + (", ..." if len(values) > SHOWN else "")
