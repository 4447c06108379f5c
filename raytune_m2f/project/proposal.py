"""What a data set's figures ask of a configuration: the recipe to build on, keys with their values, and a space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raytune_m2f.project.numbers import Numbers
from raytune_m2f.project.published import published_settings, published_space
from raytune_m2f.project.settings import Setting
from raytune_m2f.project.small import small_settings, small_space

Device = Literal["cpu", "gpu"]

MANY_IMAGES = 1000
"""From here on a GPU trains the published recipe; below, and on any CPU, `small_data`."""


@dataclass(frozen=True)
class Proposal:
    """A configuration that builds on a shipped one, and a search space for it.

    Attributes:
        base: the shipped configuration, and why that one.
        settings: keys of one section stand together.
        space: keys with their line of a search space.
    """

    base: Setting
    settings: tuple[Setting, ...]
    space: tuple[Setting, ...]


def propose(numbers: Numbers, device: Device) -> Proposal:
    """The configuration for a data set with these figures."""
    many = numbers.train >= MANY_IMAGES
    if many and device == "gpu":
        why = f"{numbers.train} images to train on, and a GPU: Mask2Former's published recipe for COCO"
        base = Setting("_BASE_", "maskformer2_R50_instance", why)
        return Proposal(base, tuple(published_settings(numbers)), tuple(published_space(numbers)))
    why = "a CPU trains" if many else f"{numbers.train} images to train on"
    why += ": a pretrained network for little data, whose queries stand where objects are"
    base = Setting("_BASE_", "small_data", why)
    return Proposal(base, tuple(small_settings(numbers, device)), tuple(small_space(numbers)))
