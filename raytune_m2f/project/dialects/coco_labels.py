"""Labels that COCO files hold as numbers, and what the numbers stand for.

- Our own form: an integer field for each name of the top-level `subcategories` (docs/own_data.md).
- PACO, LVIS, Fashionpedia: `attribute_ids`, a list of ids of the top-level `attributes`. PACO groups them by
  `attr_type_to_attr_idxs` (color, pattern_marking, material, transparency), Fashionpedia by their `supercategory`.
  An object with two of one group has no single label of it. Without groups each attribute is a field, true or false.
- Categories that list their attributes with values: [{"name": "ripeness", "values": ["green", "ripe"]}].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raytune_m2f.project.dialects.draft import Notes
from raytune_m2f.project.dialects.values import Said, dictionary, listed, plain, word
from raytune_m2f.project.export import Value

LISTS = ("attribute_ids", "dom_color_ids")
"""Keys of annotations that hold ids of `attributes`."""


class Labels:
    """What the numbers of a file stand for.

    Attributes:
        classes: the classes of each field that has them listed.
    """

    def __init__(self, content: Mapping[str, Any], notes: Notes) -> None:
        self._notes = notes
        self._heads = {
            word(head): tuple(word(name) for name in names)
            for head, names in dictionary(content.get("subcategories")).items()
            if isinstance(names, list) and word(head)
        }
        self._names, self._groups = _attributes(content)
        self.classes: dict[str, tuple[str, ...]] = {
            head: tuple(n for n in names if n) for head, names in self._heads.items()
        }
        if len(set(self._groups.values())) > 1:
            for number, group in self._groups.items():
                place = f"attribute_ids.{group}"
                self.classes[place] = (*self.classes.get(place, ()), self._names[number])
        for category in listed(content.get("categories")):
            for attribute in listed(dictionary(category).get("attributes")):
                name, values = word(dictionary(attribute).get("name")), listed(dictionary(attribute).get("values"))
                if name and values:
                    place = f"attributes.{name}"
                    known = (*self.classes.get(place, ()), *(w for value in values if (w := word(value))))
                    self.classes[place] = tuple(dict.fromkeys(known))

    def read(self, entry: Mapping[str, Any], origin: str) -> tuple[Said, dict[str, Any]]:
        """The fields of an annotation that are such numbers, and what else it says."""
        said: Said = {}
        others = dict(entry)
        for head, names in self._heads.items():
            value = others.pop(head, None)
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if type(value) is int and 0 <= value < len(names):
                said[head] = names[value]
            elif type(value) is int:
                self._notes.add(
                    f"labels of {head!r} outside of its {len(names)} classes count as unknown", f"{origin}: {value}"
                )
            elif value is not None and (single := plain(value)) is not None:
                said[head] = single
        for key in LISTS:
            if self._names and isinstance(others.get(key), list):
                said |= self._named(key, others.pop(key), origin)
        return said, others

    def find_elsewhere(self, items: Iterable[Mapping[str, Value]]) -> None:
        """Where a head's labels stand as names in another place (attributes.<head>), that has its classes too."""
        values: dict[str, set[Value]] = {}
        for fields in items:
            for place, value in fields.items():
                if place in self._heads or place.rpartition(".")[2] in self._heads:
                    values.setdefault(place, set()).add(value)
        for place, seen in values.items():
            head = place.rpartition(".")[2]
            if place not in self.classes and head not in values and seen <= set(self.classes[head]):
                self.classes[place] = self.classes[head]

    def _named(self, key: str, numbers: list[Any], origin: str) -> Said:
        known = [n for n in dict.fromkeys(n for n in numbers if type(n) is int) if n in self._names]
        if len(known) < len(numbers):
            self._notes.add(f"numbers in {key!r} that no attribute has are left out", origin)
        groups = set(self._groups.values())
        if len(groups) <= 1:
            return {f"{key}.{name}": number in known for number, name in self._names.items()}
        said: Said = {}
        for group in dict.fromkeys(self._groups[n] for n in known):
            names = [self._names[n] for n in known if self._groups[n] == group]
            if len(names) == 1:
                said[f"{key}.{group}"] = names[0]
            else:
                self._notes.add(f"objects with several values of {key}.{group} have no single label of it", origin)
        return said


def _attributes(content: Mapping[str, Any]) -> tuple[dict[int, str], dict[int, str]]:
    """The name and the group of each attribute by its id."""
    entries = [dictionary(entry) for entry in listed(content.get("attributes"))]
    names = {
        entry["id"]: name for entry in entries if type(entry.get("id")) is int and (name := word(entry.get("name")))
    }
    groups = {
        number: word(group)
        for group, numbers in dictionary(content.get("attr_type_to_attr_idxs")).items()
        for number in listed(numbers)
        if type(number) is int and number in names
    }
    if not groups:
        groups = {
            n: word(entry.get("supercategory")) for entry in entries if type(n := entry.get("id")) is int and n in names
        }
    return names, {number: groups.get(number) or "other" for number in names}
