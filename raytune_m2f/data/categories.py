"""The names behind the labels: main categories and the classes of each subcategory head."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raytune_m2f.errors import DatasetError, did_you_mean


@dataclass(frozen=True)
class Categories:
    """What a label means. Label i of the main classifier is `ids[i]` in COCO files and `names[i]` to people.

    Attributes:
        ids: COCO category ids, ascending; they need not be contiguous.
        names: the categories' names, in the order of `ids`; unique.
        subcategories: for each subcategory head, in the order asked for, the names of its classes.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    subcategories: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> dict[str, int]:
        """The number of classes of each subcategory head."""
        return {head: len(names) for head, names in self.subcategories.items()}

    def to_dict(self) -> dict[str, Any]:
        """The same two lists as in a COCO file; also the content of an export's categories.json."""
        return {
            "categories": [{"id": i, "name": n} for i, n in zip(self.ids, self.names, strict=True)],
            "subcategories": {head: list(names) for head, names in self.subcategories.items()},
        }

    @classmethod
    def from_dict(
        cls,
        content: Mapping[str, Any],
        subcategories: Sequence[str] | None = None,
        *,
        source: str = "categories.json",
    ) -> Categories:
        """Read `categories` and `subcategories` as a COCO file or `to_dict` writes them.

        Args:
            content: the file's content.
            subcategories: the heads to keep, in this order; None keeps all.
            source: the file, for the error message.

        Raises:
            DatasetError: a list is missing or malformed, or a head is asked for that is not there.
        """
        if not isinstance(content, Mapping):
            raise DatasetError(f"{source}: got {type(content).__name__}, allowed: an object with 'categories'")
        names = _names_by_id(content.get("categories"), source)
        heads = content.get("subcategories") or {}
        if not isinstance(heads, Mapping):
            raise DatasetError(f"{source}: 'subcategories' must be an object {{head: [class name, ...]}}")
        ids = tuple(sorted(names))
        chosen = tuple(heads) if subcategories is None else tuple(subcategories)
        return cls(
            ids=ids,
            names=tuple(names[i] for i in ids),
            subcategories={head: _class_names(head, heads, source) for head in chosen},
        )


def _names_by_id(categories: object, source: str) -> dict[int, str]:
    if not isinstance(categories, list) or not categories:
        raise DatasetError(f"{source}: no categories; 'categories' must be a list of {{id, name}}, at least one")
    names: dict[int, str] = {}
    for category in categories:
        match category:
            case {"id": int(number), "name": str(name)} if type(number) is int and name:
                if number in names:
                    raise DatasetError(f"{source}: category id {number} is given twice")
                names[number] = name
            case _:
                raise DatasetError(f"{source}: category {category!r} must have an integer 'id' and a text 'name'")
    _refuse_repeated(names.values(), f"{source}: category name")
    return names


def _class_names(head: str, heads: Mapping[str, Any], source: str) -> tuple[str, ...]:
    if head not in heads:
        given = f"it has {', '.join(map(repr, heads))}" if heads else "it has no 'subcategories' at all"
        raise DatasetError(
            f"{source}: subcategory {head!r} is not in the top-level 'subcategories': {given}"
            f"{did_you_mean(head, heads, quote=True)}. Correct DATASETS.SUBCATEGORIES or add the list of class names."
        )
    names = heads[head]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise DatasetError(f"{source}: subcategories[{head!r}] must be a list of class names, got {names!r}")
    _refuse_repeated(names, f"{source}: subcategories[{head!r}]: class name")
    return tuple(names)


def _refuse_repeated(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DatasetError(f"{what} {name!r} is given twice; the metrics could not tell them apart")
        seen.add(name)
