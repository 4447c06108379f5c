"""What an engine hands to training and to evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model import Target


@dataclass(frozen=True)
class TrainSample:
    """One augmented training image.

    Attributes:
        image: (3, H, W) uint8, RGB.
        target: its instances, in the frame of `image`.
        seed: seed of everything random that the loss does with this image (its sampled points), so that
            the loss does not depend on how a batch is split over workers.
    """

    image: Tensor
    target: Target
    seed: int


@dataclass(frozen=True)
class TestSample:
    """One image to predict.

    Attributes:
        image: (3, h, w) uint8, RGB, resized for the network.
        image_id: the image's id in the annotation file.
        height, width: size of the original image, in pixels; predictions are made at this size.
        file: the image file.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    image: Tensor
    image_id: int
    height: int
    width: int
    file: Path
