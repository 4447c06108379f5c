"""The fields of an export's objects: which are subcategories, what their classes are, and why the others are not."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from raytune_m2f.config import Config
from raytune_m2f.data.labels.fields import FieldValues, class_name, last_part, natural
from raytune_m2f.errors import InputError, did_you_mean, first_of
from raytune_m2f.project.export import Export, Value
from raytune_m2f.project.masks import Masked, Masks

HEADS = "DATASETS.SUBCATEGORIES"
MOST_HEADS = 4
"""Taken without being asked for; a network with a head for each of fifty attributes is nobody's first wish."""
NONE = "none"
"""The word for no subcategory at all."""


@dataclass(frozen=True)
class Head:
    """A subcategory that is trained.

    Attributes:
        name: of the head, and of its field in our annotations.
        place: in the export.
        classes: in the order of their labels.
    """

    name: str
    place: str
    classes: tuple[str, ...]

    def label(self, fields: Mapping[str, Value]) -> int | None:
        """The class of an object with these fields; None: not known."""
        if self.place not in fields:
            return None
        name = class_name(fields[self.place])
        return self.classes.index(name) if name in self.classes else None


@dataclass(frozen=True)
class Candidate:
    """A field of the export.

    Attributes:
        place: where it stands.
        counts: objects of each value, in the order that the classes have.
        known: objects with a value.
        unknown_words: values that were taken for "not known", and how often.
        reason: why it is not a head; empty if it is one.
        doubt: why a head would learn little from it; empty if there is something to learn.
        rank: what is taken first, the lowest.
        head: the head; None: it is not trained.
    """

    place: str
    counts: Mapping[str, int]
    known: int
    unknown_words: Mapping[str, int]
    reason: str
    doubt: str
    rank: tuple[bool, bool, bool, int]
    head: Head | None = None

    @property
    def declared(self) -> bool:
        """Whether the export itself says that it is a head."""
        return not self.rank[0]


def candidates(export: Export, masks: Masks, asked: Sequence[str]) -> list[Candidate]:
    """Every field of the objects, those that become heads with their name.

    Args:
        asked: what the user wants, each "NAME=PLACE" or "PLACE"; ["none"] for no head. Empty: fields that are labels
            beyond doubt are taken, at most `MOST_HEADS` but for those that the export declares.

    Raises:
        InputError: a place is not there, or has no classes; a name is not allowed, or is given twice.
    """
    fields = _fields(export, masks)
    objects = sum(len(photo.instances) for photo in masks.photos)
    found = [_candidate(values, objects, export.classes) for values in fields.values()]
    if list(asked) == [NONE]:
        return [replace(one, reason=one.reason or "not taken: --subcategory none") for one in found]
    if not asked:
        return list(_taken(found))
    heads = _asked(asked, fields, {one.place: one for one in found})
    return [
        replace(one, reason="", head=heads[one.place])
        if one.place in heads
        else replace(one, reason=one.reason or "not taken: --subcategory names others")
        for one in found
    ]


def _fields(export: Export, masks: Masks) -> dict[str, FieldValues]:
    fields: dict[str, FieldValues] = {}
    for photo in masks.photos:
        for thing in photo.instances:
            for place, value in thing.item.fields.items():
                listed = bool(_listed(place, export.classes))
                values = fields.setdefault(place, FieldValues(place, listed=listed))
                values.add(value, thing.item.category)
    return fields


def _listed(place: str, classes: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The classes that the export lists for a field: for itself, or for a head of its name, whose labels it has."""
    return classes.get(place) or classes.get(last_part(place), ())


def _candidate(values: FieldValues, objects: int, classes: Mapping[str, tuple[str, ...]]) -> Candidate:
    """A field; our own form declares a head by listing its classes under a name without dots."""
    listed = _listed(values.place, classes)
    order = {name: number for number, name in enumerate(filter(None, map(class_name, listed)))}
    names = sorted(values.counts, key=lambda name: (order.get(name, len(order)), natural(name), name))
    counts = {name: values.counts[name] for name in names}
    unfit = values.unfit()
    doubt = "" if unfit else values.hardly(objects)
    declared, truth = last_part(values.place) in classes, set(counts) <= {"true", "false"}
    reason = unfit if declared else values.unlikely(objects)
    rank = (not declared, not values.listed, truth or len(counts) < 3, -values.known)
    return Candidate(values.place, counts, values.known, dict(values.unknown), reason, doubt, rank)


def _taken(found: Sequence[Candidate]) -> Iterator[Candidate]:
    """The candidates, with heads where they are labels beyond doubt: all declared ones, else the first by rank."""
    likely = sorted((one for one in found if not one.reason), key=lambda one: one.rank)
    number = max(MOST_HEADS, sum(one.declared for one in likely))
    names = _names([one.place for one in likely[:number]])
    for one in found:
        if one.place in names:
            yield replace(one, head=Head(names[one.place], one.place, tuple(one.counts)))
        elif not one.reason:
            yield replace(one, reason=f"not taken by itself: {MOST_HEADS} others come first")
        else:
            yield one


def _names(places: Iterable[str]) -> dict[str, str]:
    """A name for the head of each place: its last part, made what a head may be called."""
    names: dict[str, str] = {}
    for place in places:
        plain = unicodedata.normalize("NFKD", last_part(place)).encode("ascii", "ignore").decode()
        name = re.sub(r"\W+", "_", plain).strip("_") or "subcategory"
        name = f"_{name}" if name[0].isdigit() else name
        taken = list(names.values())
        tries = [name, f"{name}_label", *(f"{name}_{number}" for number in range(2, len(taken) + 4))]
        names[place] = next(one for one in tries if one not in taken and not _name_problem([*taken, one]))
    return names


def _name_problem(names: Sequence[str]) -> str:
    """Why heads cannot be called so; empty if they can."""
    found = Config().problems({HEADS: list(names)}, source="--subcategory")
    return found[0].removeprefix(f"--subcategory: {HEADS}: ") if found else ""


def _asked(asked: Sequence[str], fields: Mapping[str, FieldValues], known: Mapping[str, Candidate]) -> dict[str, Head]:
    """The head of each place that was asked for."""
    given: dict[str, str | None] = {}
    for word in asked:
        name, place = _parse(word, fields)
        if place in given:
            raise InputError(f"--subcategory {word}: {place} is given twice; name each field once")
        if reason := fields[place].unfit():
            raise InputError(
                f"--subcategory {word}: {place} cannot be a head: {reason}. A head has two classes or more, each of "
                f"several objects. {_others(known)}"
            )
        given[place] = name
    own = _names(place for place, name in given.items() if name is None)
    names = {place: name or own[place] for place, name in given.items()}
    if problem := _name_problem(list(names.values())):
        raise InputError(f"--subcategory: {problem}, or call the head otherwise: --subcategory NAME=PLACE")
    return {place: Head(name, place, tuple(known[place].counts)) for place, name in names.items()}


def _parse(word: str, fields: Mapping[str, FieldValues]) -> tuple[str | None, str]:
    """Name, if there is one, and place of NAME=PLACE; a place may be given by its last part, if that is unique."""
    for name, place in ((None, word), (word.partition("=")[0], word.partition("=")[2])):
        if place in fields:
            return name, place
        if len(same := [one for one in fields if place and last_part(one) == place]) == 1:
            return name, same[0]
    wanted = word.partition("=")[2] or word
    close = did_you_mean(wanted, fields, quote=True) or "."
    there = f"There are: {', '.join(first_of(list(fields), 20))}" if fields else "The objects have no field at all"
    raise InputError(
        f"--subcategory {word}: no object has a field {wanted!r}{close} {there}. "
        "Allowed: PLACE, NAME=PLACE, or none for no subcategory."
    )


def _others(known: Mapping[str, Candidate]) -> str:
    likely = [place for place, one in known.items() if not one.reason]
    return f"What looks like labels: {', '.join(first_of(likely, 8))}." if likely else "No field looks like labels."


def heads_of(found: Iterable[Candidate]) -> tuple[Head, ...]:
    """The heads, in the order of the candidates."""
    return tuple(one.head for one in found if one.head is not None)


def count_classes(head: Head, things: Iterable[Masked]) -> Counter[int | None]:
    """Objects of each label; None: not known."""
    return Counter(head.label(thing.item.fields) for thing in things)


def without(found: Sequence[Candidate], names: Mapping[str, str]) -> list[Candidate]:
    """The candidates, where the heads of these names are not taken for the reason that is given."""
    return [
        replace(one, head=None, reason=names[one.head.name]) if one.head and one.head.name in names else one
        for one in found
    ]
