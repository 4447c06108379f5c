"""Which fields of annotations are labels: few different values, each of several objects.

What is said here of a field is a guess from its name and its values; `raytune-m2f init` shows it, and takes what the
user says instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

MOST_CLASSES = 100
"""Different values of a field of labels, at most."""
MOST_NUMBERS = 12
"""The same of numbers: more are a measurement, or a count."""
OBJECTS_PER_CLASS = 3
"""With fewer objects than so many times the values, it is no field of labels but of free text."""
LONGEST = 60
"""Characters of a class's name."""
FEW, FEW_SHARE = 50, 0.1
"""A field that so few objects have, by number and by share, is not taken by itself."""
NEARLY_ALL = 0.98
"""From this share of one value on there is hardly another to learn."""

UNKNOWN_WORDS = frozenset(
    (
        "",
        "?",
        "??",
        "-",
        "--",
        "unknown",
        "unk",
        "undefined",
        "__undefined__",
        "unset",
        "unlabeled",
        "unlabelled",
        "n/a",
        "na",
        "none given",
        "null",
        "nan",
        "tbd",
        "todo",
        "don't know",
        "dont know",
        "not sure",
        "unsure",
        "not known",
        "not specified",
        "unspecified",
        "unclear",
        "not visible",
    )
)
"""What tools and people write where nobody knows; unknown is no class (docs/own_data.md)."""
TOOL_FIELDS = frozenset(
    re.findall(
        r"\w+",
        "occluded truncated difficult outside keyframe z_order zorder group group_id rotation source score confidence "
        "creator author annotator reviewer frame ignore isbbox is_bbox is_rectangle shape_type area "
        "num_keypoints num_points locked visible hidden flags created updated date_created iscrowd order",
    )
)
"""Fields that annotation tools give to every object, whatever it shows; compared without upper case."""
_ID = re.compile(r"(?:^|_)(?:id|ids|uid|uuid|guid|key|index|idx|no|number|timestamp|hash)$|[a-z](?:Id|ID|Uuid)$")


def class_name(value: object) -> str | None:
    """A value as the name of a class; None: the class is not known.

    Whole numbers are written alike, whether they are integers or not; a truth value is "true" or "false".
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            return None
        return str(int(value)) if value == int(value) else str(value)
    text = " ".join(str(value).split())
    return None if text.lower() in UNKNOWN_WORDS else text


def natural(name: str) -> tuple[tuple[int, float, str], ...]:
    """A key that sorts names as people do: "false" before "true", "2" before "10", "grade 2" before "grade 10"."""
    parts = re.split(r"(-?\d{1,15}(?:\.\d{1,15})?)", name)
    return tuple(
        (0, float(part), "") if number % 2 else (1, 0.0, part.casefold()) for number, part in enumerate(parts) if part
    )


@dataclass
class FieldValues:
    """The values of one field over many objects.

    Attributes:
        place: where it stands in an annotation: "attributes.ripeness".
        counts: objects of each value, by the name of its class.
        pairs: objects of each (category, value).
        unknown: objects whose value says that nobody knows, by what it says.
        numbers: whether every value is a number, and no truth value.
        listed: whether the export lists the values that there may be.
    """

    place: str
    counts: Counter[str] = field(default_factory=Counter)
    pairs: Counter[tuple[Hashable, str]] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)
    numbers: bool = True
    listed: bool = False

    def add(self, value: object, category: Hashable) -> None:
        """One object's value."""
        name = class_name(value)
        if name is None:
            self.unknown[" ".join(str(value).split())] += 1
            return
        self.counts[name] += 1
        self.pairs[category, name] += 1
        self.numbers &= isinstance(value, int | float) and not isinstance(value, bool)

    @property
    def known(self) -> int:
        """Objects with a value."""
        return self.counts.total()

    @property
    def key(self) -> str:
        """The last part of the place."""
        return last_part(self.place)

    def unfit(self) -> str:
        """Why it cannot be a head; empty if it can, whether or not that makes sense."""
        number = len(self.counts)
        if not number:
            return "no object has a value"
        if number == 1:
            return f"the same for all that have it: {shown(next(iter(self.counts)))}"
        if number > MOST_CLASSES:
            return f"{number} different values in {self.known} objects"
        if longest := next((name for name in self.counts if len(name) > LONGEST), None):
            return f"free text: {shown(longest)}"
        return ""

    def unlikely(self, objects: int) -> str:
        """Why it is not taken for labels, unless somebody says so; empty if it is.

        Args:
            objects: of the whole data set, with and without a value.
        """
        if reason := self.unfit():
            return reason
        number, known = len(self.counts), self.known
        if not self.listed:
            if _ID.search(self.key):
                return f"an id, by its name; {number} different values"
            if self.key.casefold() in TOOL_FIELDS:
                return "a field of the tool's own, by its name"
            if self.numbers and (number > MOST_NUMBERS or any("." in name for name in self.counts)):
                low, *_, high = sorted(self.counts, key=float)
                return f"numbers from {low} to {high}, not classes"
            if known < OBJECTS_PER_CLASS * number:
                return f"free text, or too few of each: {number} different values in {known} objects"
        return self.hardly(objects)

    def hardly(self, objects: int) -> str:
        """Why a head would learn little from it; empty if there is something to learn."""
        top, most = self.counts.most_common(1)[0]
        if self.follows_category():
            return "each category has one value: it says no more than the category"
        if self.known < FEW and self.known < FEW_SHARE * objects:
            return f"known of {self.known} of {objects} objects only"
        if most > NEARLY_ALL * self.known:
            return f"{100 * most / self.known:.1f} % are {shown(top)}"
        return ""

    def follows_category(self) -> bool:
        """Whether the category alone says the value: of several categories each has one."""
        categories = [category for category, _ in self.pairs]
        return 1 < len(categories) == len(set(categories))


def alike(names: Iterable[str]) -> list[list[str]]:
    """Names that differ in upper case, blanks, - and _ alone, those that are alike together."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(re.sub(r"[\s_-]+", "", name).casefold(), []).append(name)
    return [group for group in same.values() if len(group) > 1]


def last_part(place: str) -> str:
    """ "ripeness" of "attributes.ripeness"; of a list "attributes[]" it is "attributes"."""
    return next((part for part in reversed(re.split(r"[.\[\]]+", place)) if part), place)


def shown(name: str, longest: int = 40) -> str:
    """A name in quotation marks for a message, cut where it is long."""
    return repr(name if len(name) <= longest else f"{name[:longest]}...")
