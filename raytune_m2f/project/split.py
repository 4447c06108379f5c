"""Which images train and which score: the export's own parts, or a split that depends on names and seed alone.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, On the stratification of multi-label data, algorithm 1):
the rarest label that is left is dealt out first, to the part that lacks most of it. Labels are the category and the
class of every head of an image's objects, and "no object". What is dealt out is a group of images that stay together;
one image, unless the user says by what they are grouped. Added to the paper's: a label of two groups or more is in both
parts, and ties are broken by a checksum of the names, so that neither the order in the file nor the machine matters.
(scikit-multilearn and iterative-stratification know neither groups nor that a rare label is wanted in both parts, and
break ties by numpy's generator and the order of the rows.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from raytune_m2f.data.labels.fields import class_name, last_part
from raytune_m2f.errors import InputError, did_you_mean, first_of
from raytune_m2f.project.dialects.draft import part_of
from raytune_m2f.project.fields import Head
from raytune_m2f.project.masks import Photo, several
from raytune_m2f.storage.files import checksum

DEFAULT_VAL = 0.2
TOO_FULL = 1.25
"""A class of a head, which is less than a category, may make val larger than asked by this factor to be in it."""

FRAME = r"(.*\D)\d+\.\w+$"
"""The name of a frame: of its sequence, then a number."""
FRAMES, MOSTLY = 3, 0.9
"""So many frames make a sequence, and so large a part of the images must be in one."""

Label = Hashable


@dataclass(frozen=True)
class Split:
    """The images of each part.

    Attributes:
        train, val: what a training learns from, and is scored by.
        test: kept apart by the export; neither.
        how: where the parts are from, in words.
        is_new: whether they were made here.
    """

    train: tuple[Photo, ...]
    val: tuple[Photo, ...]
    test: tuple[Photo, ...]
    how: tuple[str, ...]
    is_new: bool = False


def split(
    photos: Sequence[Photo],
    heads: Sequence[Head],
    *,
    val: float | None = None,
    group_by: str | None = None,
    seed: int = 0,
) -> Split:
    """The export's parts where it has two and neither `val` nor `group_by` is given; else a new split.

    Args:
        val: share of the images that score, 0 to 1; None is 0.2 where a split is made.
        group_by: a field of the images, or a regular expression on their names whose group 1 is the group.
        seed: of the new split.

    Raises:
        InputError: `group_by` is wrong, or a part would have nothing to learn from or to be scored by.
    """
    parts = {part: tuple(p for p in photos if (p.picture.part or "train") == part) for part in ("train", "val", "test")}
    anew = val is not None or group_by is not None
    found = None if anew else _own(**parts)
    if found is None:
        rest = (*parts["train"], *parts["val"])
        test = parts["test"] if rest else ()
        share = DEFAULT_VAL if val is None else val
        joined = bool(parts["train"] and parts["val"])
        found = _divided(rest or parts["test"], heads, share, group_by, seed, test=test, joined=joined)
    _require_both(found)
    return found


def _own(train: tuple[Photo, ...], val: tuple[Photo, ...], test: tuple[Photo, ...]) -> Split | None:
    """The parts of the export, if it has two that can be train and val."""
    if train and val:
        return Split(train, val, test, ("the export's own parts",))
    if train and test:
        how = "the export's own parts; it has no val: its test scores the trainings, and nothing is left to test"
        return Split(train, test, (), (how,))
    return None


def _require_both(found: Split) -> None:
    for name, photos in (("train", found.train), ("val", found.val)):
        if not any(photo.instances for photo in photos):
            raise InputError(
                f"{name} has {several(len(photos), 'image')}, and no object with a mask in them "
                f"({'; '.join(found.how)}). --val 0.2 divides all images anew; with a single image that has objects "
                "there is nothing to divide."
            )


def _divided(
    photos: Sequence[Photo],
    heads: Sequence[Head],
    val: float,
    group_by: str | None,
    seed: int,
    *,
    test: tuple[Photo, ...],
    joined: bool,
) -> Split:
    """A new split of train and val; `joined`: the export has divided them otherwise."""
    groups, alone = _groups(photos, group_by)
    if len(groups) < 2:
        one = "one image" if len(photos) == 1 else f"one group, of all {len(photos)} images"
        cure = "Annotate more images." if group_by is None else "Give more images, or another --group-by."
        raise InputError(f"nothing to divide into train and val: there is {one}. {cure}")
    order = sorted(groups, key=lambda name: checksum(f"{seed}:{name}".encode("utf-8", "surrogateescape")))
    units = [_Unit(name, groups[name], _labels(groups[name], heads)) for name in order]
    chosen = _stratify(units, val)
    scored = {photo.name for unit in units if unit.name in chosen for photo in unit.photos}
    of_groups = f", {len(groups)} groups" if group_by is not None else ""
    how = [
        f"{len(scored)} of {len(photos)} images{of_groups} for val ({val:g} was asked for), by category and "
        f"subcategory, seed {seed}"
    ]
    how += ["train and val of the export are divided anew, as --val or --group-by was given"] if joined else []
    if alone:
        how.append(f"{several(len(alone), 'image')} without a group, each by itself: {', '.join(first_of(alone, 3))}")
    return Split(
        tuple(photo for photo in photos if photo.name not in scored),
        tuple(photo for photo in photos if photo.name in scored),
        test,
        tuple(how),
        is_new=True,
    )


# Groups


def _groups(photos: Sequence[Photo], group_by: str | None) -> tuple[dict[str, list[Photo]], list[str]]:
    """The images of each group, by a name that depends on nothing else; and the names of images without a group."""
    if group_by is None:
        return {photo.name: [photo] for photo in photos}, []
    keys = _group_names(photos, group_by)
    groups: dict[str, list[Photo]] = {}
    for photo, key in zip(photos, keys, strict=True):
        groups.setdefault(f"image {photo.name}" if key is None else f"group {key}", []).append(photo)
    alone = [photo.name for photo, key in zip(photos, keys, strict=True) if key is None]
    if len(alone) == len(photos):
        raise InputError(
            f"--group-by {group_by}: no image has a group; names look like {', '.join(first_of(alone, 3))}. Allowed: a "
            "field of the images, or a regular expression whose group 1 is found in their names."
        )
    return groups, alone


def _group_names(photos: Sequence[Photo], group_by: str) -> list[str | None]:
    places = sorted({place for photo in photos for place in photo.picture.fields})
    for place in (one for one in places if group_by in (one, last_part(one))):
        values = (photo.picture.fields.get(place) for photo in photos)
        return [None if value is None else class_name(value) for value in values]
    there = f"the images have the fields {', '.join(first_of(places, 12))}" if places else "the images have no fields"
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(f"--group-by {group_by}: no regular expression ({error}), and {there}.") from None
    if pattern.groups < 1:
        raise InputError(
            f"--group-by {group_by}: as a regular expression it has no group: put what names the group in round "
            rf"brackets, such as '(.*)_\d+\.jpg'. Or a field: {there}{did_you_mean(group_by, places, quote=True)}"
        )
    found = (pattern.search(photo.name) for photo in photos)
    return [match[1] if match else None for match in found]


# Iterative stratification


@dataclass(frozen=True)
class _Unit:
    """A group, and how many of its images have which label."""

    name: str
    photos: Sequence[Photo]
    labels: Counter[Label]


def _labels(photos: Sequence[Photo], heads: Sequence[Head]) -> Counter[Label]:
    labels: Counter[Label] = Counter()
    for photo in photos:
        things = photo.instances
        of_image: set[Label] = {("category", thing.item.category) for thing in things} or {"no object"}
        for head in heads:
            of_image |= {(head.name, label) for t in things if (label := head.label(t.item.fields)) is not None}
        labels.update(of_image)
    return labels


def _stratify(units: Sequence[_Unit], val: float) -> set[str]:
    """The names of the units of val."""
    total = sum(len(unit.photos) for unit in units)
    lacks = _wanted(units, val)
    size = {True: val * total, False: total - val * total}  # what each part still lacks; True is val
    holders: dict[Label, list[_Unit]] = {}
    for unit in units:
        for label in unit.labels:
            holders.setdefault(label, []).append(unit)
    left = {label: len(having) for label, having in holders.items()}
    placed: dict[str, bool] = {}
    while len(placed) < len(units):
        rarest = min((label for label in left if left[label]), key=lambda label: (left[label], str(label)))
        for unit in (unit for unit in holders[rarest] if unit.name not in placed):
            full = -size[True] > (TOO_FULL - 1) * val * total and not _is_category(rarest)
            to_val = placed[unit.name] = not full and _lacks_more(lacks[rarest], size)
            size[to_val] -= len(unit.photos)
            for label, count in unit.labels.items():
                lacks[label][to_val] -= count
                left[label] -= 1
    return _both_filled(units, {name for name, to_val in placed.items() if to_val})


def _wanted(units: Sequence[_Unit], val: float) -> dict[Label, dict[bool, float]]:
    """How many images with each label each part is to have: at least one unit in each where there are two."""
    images: Counter[Label] = Counter()
    holders: Counter[Label] = Counter()
    for unit in units:
        images.update(unit.labels)
        holders.update(unit.labels.keys())
    wanted = {}
    for label, count in images.items():
        share = val * count
        if holders[label] > 1:
            share = min(max(share, 1.0), count - 1.0)
        wanted[label] = {True: share if holders[label] > 1 else 0.0, False: count - share}
    return wanted


def _is_category(label: Label) -> bool:
    return isinstance(label, tuple) and label[0] == "category"


def _lacks_more(here: Mapping[bool, float], size: Mapping[bool, float]) -> bool:
    """Whether val lacks more of a label than train; of a tie its size decides, as in the paper; else train."""
    return (here[True], size[True]) > (here[False], size[False])


def _both_filled(units: Sequence[_Unit], chosen: set[str]) -> set[str]:
    """The choice, with an object in each part: with two or three units a rounding can leave one empty."""
    with_objects = [unit for unit in units if any(label != "no object" for label in unit.labels)]
    smallest = sorted(with_objects, key=lambda unit: len(unit.photos))
    if len(smallest) > 1 and not any(unit.name in chosen for unit in smallest):
        return chosen | {smallest[0].name}
    if len(smallest) > 1 and all(unit.name in chosen for unit in smallest):
        return chosen - {smallest[-1].name}
    return chosen


def sequences(photos: Sequence[Photo]) -> str:
    """The --group-by that would keep frames together, where names look like those of several sequences; else empty."""
    prefixes = Counter(match[1] for photo in photos if (match := re.match(FRAME, photo.name)))
    kinds = {re.sub(r"\W|_", "", thing.item.category.casefold()) for photo in photos for thing in photo.things}
    for prefix in list(prefixes):  # neither apple_001.jpg nor train/001.jpg is a frame of a film
        if re.sub(r"\W|_", "", prefix.rpartition("/")[2].casefold()) in kinds or part_of(PurePath(prefix)):
            del prefixes[prefix]
    in_sequences = sum(count for count in prefixes.values() if count >= FRAMES)
    if len(prefixes) < 2 or in_sequences < MOSTLY * len(photos):
        return ""
    return (
        f"names look like frames of {len(prefixes)} sequences ({', '.join(first_of(sorted(prefixes), 3))}): if they "
        f"are, --group-by '{FRAME}' keeps each in one part"
    )


def only_once(found: Split, heads: Sequence[Head]) -> list[str]:
    """Classes that only one of train and val has: a line for each kind of label."""
    lines = []
    for what, of in [("category", None), *((head.name, head) for head in heads)]:
        names: list[set[str]] = []
        for photos in (found.train, found.val):
            things = [thing for photo in photos for thing in photo.instances]
            if of is None:
                names.append({thing.item.category for thing in things})
            else:
                labels = {of.label(thing.item.fields) for thing in things}
                names.append({of.classes[label] for label in labels if label is not None})
        for only, other, effect in ((0, 1, "never scored"), (1, 0, "never learnt")):
            if alone := sorted(names[only] - names[other]):
                part = ("train", "val")[only]
                lines.append(f"{what}: in {part} only, so {effect}: {', '.join(first_of(alone, 12))}")
    return lines
