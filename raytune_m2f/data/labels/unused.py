"""Labels in a file of which no head is read: told, so that nobody trains for days without them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raytune_m2f.data.labels.entries import SHOWN, counted, entries_of
from raytune_m2f.data.labels.fields import FieldValues
from raytune_m2f.errors import first_of
from raytune_m2f.notes import Note

MOST_INSPECTED = 20_000
"""Annotations that are searched."""


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
        places = first_of([f"{values.place}: {counted(values.counts)}" for values in likely], SHOWN)
        seen = f"the annotations seem to have labels in {'; '.join(places)}"
        remedy = "`raytune-m2f init` makes heads of them (docs/init.md)"
    else:
        return None
    return Note("data/fields", seen, "DATASETS.SUBCATEGORIES is empty: nothing but the categories is learnt", remedy)


def _likely_labels(entries: Sequence[Mapping[str, Any]]) -> list[FieldValues]:
    """The fields that are labels beyond doubt."""
    fields: dict[str, FieldValues] = {}
    for entry in entries:
        for found in entries_of(entry):
            if isinstance(found.value, bool | int | float | str):
                values = fields.setdefault(found.place, FieldValues(found.place))
                values.add(found.value, entry.get("category_id"))
    return [values for values in fields.values() if not values.unlikely(len(entries))]
