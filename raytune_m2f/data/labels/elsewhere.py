"""Find subcategory labels that an annotation file holds elsewhere than in the field of their head.

Annotation tools put them into an `attributes` object, write the class as text, or spell the field otherwise. Such
labels would count as unknown, and the head would learn nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.labels.entries import COCO_FIELDS, SHOWN, counted, entries_of, normalized
from raytune_m2f.errors import DatasetError
from raytune_m2f.notes import Note


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
    known = {normalized(name): index for index, name in enumerate(classes)}
    if isinstance(value, str) and normalized(value) in known:
        return f"{allowed}; write the index of {value!r}, {known[normalized(value)]}"
    if value == len(classes) and type(value) is int:
        return f"{allowed}; classes are counted from 0"
    return f"{allowed}; leave the field out where the class is unknown"


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
        return "; ".join(f"{place}: {counted(values)}" for place, values in list(self.values.items())[:SHOWN])


def _search(entries: Sequence[Mapping[str, Any]], head: str, classes: Sequence[str], *, by_name: bool) -> _Found:
    """Search all fields of the annotations without a label of `head`.

    Args:
        by_name: accept only fields that are named like the head, not any that holds the name of a class.
    """
    names, found = set() if by_name else {normalized(name) for name in classes}, _Found()
    for entry in entries:
        if entry.get(head) is not None:
            continue
        found.fields.update(key for key in entry if key not in COCO_FIELDS and key != head)
        for place, value in {f.place: f.value for f in entries_of(entry) if f.may_be_label(head, names)}.items():
            found.values.setdefault(place, Counter())[repr(value)] += 1
    return found


def _unlabelled_message(head: str, classes: Sequence[str], found: _Found, annotations: int) -> str:
    """Why a head has no label in a file, and what to do."""
    listed = ", ".join(f"{index} = {name}" for index, name in enumerate(classes))
    if found.values:
        seen = f"What looks like them is in another place: {found}."
    elif found.fields:
        seen = f"Beside COCO's own fields the annotations have {counted(found.fields)}."
    else:
        seen = "The annotations have none but COCO's own fields."
    return (
        f"not one of the {annotations} annotations has a label of the subcategory {head!r}, so its head has nothing "
        f'to learn from or to be scored by. {seen} Give each annotation an integer field "{head}" ({listed}), or '
        "take the head out of DATASETS.SUBCATEGORIES."
    )
