"""A proposed value and its reason, and the values that are the same in every recipe."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from raytune_m2f.project.numbers import Numbers

WIDE_ENOUGH = 12
"""An object is found well from this width on [pixels in the network] (docs/recipe.md)."""
HUGE = 1280
"""Longer side from which on images with tiny objects are predicted by windows [pixels]."""
QUERIES, MOST_QUERIES = 100, 5000
SPARE = 1.2
"""More queries, and detections, than the fullest image has instances, for images that are fuller still."""
LARGEST_SIDE = 8192
"""Of INPUT.MAX_SIZE_TEST [pixels]."""


def _words_of(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", text.lower()))


COLOURS = _words_of(
    "red green blue yellow orange purple violet pink brown black white grey gray golden silver beige cyan"
)
BY_COLOUR = _words_of("color colour hue tint shade ripe ripeness unripe maturity stain")
"""Words in the name of a head, or of its classes, that are told apart by hue."""


@dataclass(frozen=True)
class Setting:
    """A key of the configuration, or of a search space, its value, and why it has it."""

    key: str
    value: Any
    why: str


def instances(numbers: Numbers) -> Iterator[Setting]:
    """Room for the instances of an image."""
    most = round(numbers.per_image.most)
    number = min(MOST_QUERIES, max(QUERIES, up(SPARE * most, 50) if SPARE * most > QUERIES else 0))
    typical = f"the median of the images has {numbers.per_image.median:.0f} instances, the fullest {most}"
    room = "the published number is enough" if number == QUERIES else "a fifth more, for fuller images to come"
    if number == MOST_QUERIES and SPARE * most > number:
        room = "as many as there may be; predict by windows (TEST.TILES) for more"
    yield Setting("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", number, f"{typical}: {room}")
    room = "COCO's number is enough" if number == QUERIES else "COCO's 100 could be too few"
    yield Setting("TEST.DETECTIONS_PER_IMAGE", number, f"the fullest image has {most} instances: {room}")


def augmentation(numbers: Numbers) -> Iterator[Setting]:
    """What is turned off, as it would change a label."""
    if what := _by_colour(numbers):
        why = f"{what} may be told by its colour, and this augmentation turns hues by up to 36 degrees"
        yield Setting("INPUT.COLOR_AUG_SSD", False, why)
    if what := _by_side(numbers):
        yield Setting("INPUT.RANDOM_FLIP", "none", f"{what} has left and right, which a flip would exchange")


def _by_colour(numbers: Numbers) -> str:
    """The head, or the categories, whose classes differ by hue; empty if none seems to."""
    for head, classes in numbers.heads.items():
        if (_words([head]) | _words(classes)) & BY_COLOUR or len(_words(classes) & COLOURS) > 1:
            return f"the head {head}"
    return "the category" if len(_words(numbers.categories) & COLOURS) > 1 else ""


def _by_side(numbers: Numbers) -> str:
    """The head, or the categories, whose classes a flip would exchange; empty if none seems to."""
    for what, names in (*numbers.heads.items(), ("", numbers.categories)):
        if _words(names) >= {"left", "right"}:
            return f"the head {what}" if what else "the category"
    return ""


def _words(names: Iterable[str]) -> set[str]:
    return {word for name in names for word in _words_of(name)}


def width_needed(numbers: Numbers) -> float:
    """How long an image must be for nine of ten objects to be wide enough [pixels in the network]."""
    return WIDE_ENOUGH / numbers.width.low


def sides(numbers: Numbers) -> str:
    """How long the images are in their files, in words."""
    low, high = round(numbers.side.low), round(numbers.side.high)
    return f"{low} pixels" if low == high else f"{low} to {high} pixels"


def tiles(numbers: Numbers, size: int, side: int) -> Iterator[Setting]:
    """Prediction by windows of `size` pixels of an image that is `side` pixels long in the network."""
    narrow = numbers.width.low * numbers.side.median
    why = f"images of {sides(numbers)} with objects from {narrow:.0f} pixels on are predicted by overlapping windows"
    yield Setting("TEST.TILES.ENABLED", True, why)
    yield Setting("TEST.TILES.SIZE", size, f"what training shows the network; the whole image is {side} pixels long")


def rate(batch: int) -> Iterator[Setting]:
    """How the learning rate follows another batch than this."""
    yield Setting("SOLVER.REFERENCE_BATCH", batch, "the batch that this rate is for")
    why = "with another SOLVER.IMS_PER_BATCH the rate follows by its square root, as suits AdamW"
    yield Setting("SOLVER.LR_SCALING", "sqrt", why)


def balance(numbers: Numbers) -> Iterator[Setting]:
    """What a study may change beside the learning rate."""
    why = "how much a query without an object counts; 0.1 is the published weight"
    key = "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT"
    yield Setting(key, {"type": "loguniform", "low": 0.05, "high": 0.5}, why)
    if numbers.heads:
        why = f"what {', '.join(numbers.heads)} count beside category and mask; 2 is as much as the category"
        key = "MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT"
        yield Setting(key, {"type": "loguniform", "low": 0.5, "high": 8.0}, why)


def up(value: float, step: int) -> int:
    """The next multiple of `step`."""
    return math.ceil(value / step) * step


def near(value: float, step: int = 64) -> int:
    """The nearest multiple of `step`, one at least."""
    return max(step, round(value / step) * step)
