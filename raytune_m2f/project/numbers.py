"""The figures of a data set that a configuration follows from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from raytune_m2f.project.fields import Head
from raytune_m2f.project.masks import Photo


class Spread(NamedTuple):
    """The 10th, 50th, 90th percentile and the maximum of a number."""

    low: float
    median: float
    high: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value or more."""
        listed = list(values)
        low, median, high, most = map(float, np.percentile(listed, (10, 50, 90, 100)))
        return cls(low, median, high, most)


@dataclass(frozen=True)
class Numbers:
    """Figures of a data set, of train and val together if nothing else is said.

    Attributes:
        train: images to train on, those without an instance left out.
        val: images to score.
        instances: to train on.
        per_image: instances of the images that have any.
        side: the longer side of the images [pixels].
        width: of the instances, the root of the mask's area, in units of the longer side of their image [share].
        categories: their names.
        heads: name and classes of every head.
    """

    train: int
    val: int
    instances: int
    per_image: Spread
    side: Spread
    width: Spread
    categories: tuple[str, ...]
    heads: dict[str, tuple[str, ...]]


def numbers_of(
    train: Sequence[Photo], val: Sequence[Photo], categories: Sequence[str], heads: Sequence[Head]
) -> Numbers:
    """The figures of a split with an instance in each part."""
    photos = [*train, *val]
    sides = {photo.name: float(max(photo.picture.width, photo.picture.height)) for photo in photos}
    return Numbers(
        train=sum(bool(photo.instances) for photo in train),
        val=len(val),
        instances=sum(len(photo.instances) for photo in train),
        per_image=Spread.of(len(photo.instances) for photo in photos if photo.instances),
        side=Spread.of(sides.values()),
        width=Spread.of(thing.area**0.5 / sides[photo.name] for photo in photos for thing in photo.instances),
        categories=tuple(categories),
        heads={head.name: head.classes for head in heads},
    )
