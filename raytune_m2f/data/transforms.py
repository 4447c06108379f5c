"""Mask2Former's augmentation (large-scale jitter) and the resize of a test image.

Source: detectron2's RandomFlip, ResizeScale, FixedSizeCrop and ResizeShortestEdge, in the order of
Mask2Former's COCOInstanceNewBaselineDatasetMapper. One difference: that mapper moves a polygon's points and
rasterises it at the new size; here a mask is rasterised at the image's own size and resized with nearest
neighbour, which is what detectron2 does with RLE masks. All forms of `segmentation` so go one tested way; the
outlines differ by about a source pixel at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms.v2 import functional

Flip = Literal["none", "horizontal", "vertical"]

PAD_VALUE = 128
"""Grey around an image that is smaller than the crop; masks are padded with 0."""


@dataclass(frozen=True)
class Jitter:
    """One drawn augmentation: flip, resize, crop to `size` x `size`, pad right and below.

    Attributes:
        flip: what is done, not what might be.
        resized: height and width after the resize, in pixels.
        offset: top and left of the crop in the resized image.
        size: the side of the square result.
    """

    flip: Flip
    resized: tuple[int, int]
    offset: tuple[int, int]
    size: int

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        height: int,
        width: int,
        *,
        image_size: int,
        min_scale: float,
        max_scale: float,
        flip: Flip,
    ) -> Jitter:
        """Draw for an image of height x width: flip with probability 1/2; fit into image_size x scale.

        One number scales both axes (the aspect ratio stays), and one shifts the crop along both.
        """
        flipped, scale, shift = rng.random() < 0.5, rng.uniform(min_scale, max_scale), rng.random()
        factor = image_size * scale / max(height, width)
        resized = max(1, round(height * factor)), max(1, round(width * factor))
        return cls(
            flip=flip if flipped else "none",
            resized=resized,
            offset=(
                round(max(resized[0] - image_size, 0) * shift),
                round(max(resized[1] - image_size, 0) * shift),
            ),
            size=image_size,
        )

    def image(self, image: npt.NDArray[np.uint8], recolored: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """(H, W, 3) uint8 to (3, size, size) uint8; bilinear with antialiasing, as PIL does it.

        Args:
            recolored: changes the colours of the crop; not of the grey beside it.
        """
        axes = {"none": (), "horizontal": (-1,), "vertical": (-2,)}[self.flip]
        flipped = torch.from_numpy(image).permute(2, 0, 1).flip(axes)
        resized = _resize(flipped, self.resized)
        top, left = self.offset
        crop = resized[:, top : top + self.size, left : left + self.size]
        if recolored is not None:
            crop = recolored(crop)
        padded = torch.full((3, self.size, self.size), PAD_VALUE, dtype=torch.uint8)
        padded[:, : crop.shape[1], : crop.shape[2]] = crop
        return padded

    def masks(self, masks: npt.NDArray[np.uint8]) -> Tensor:
        """(N, H, W) of 0 and 1 to (N, size, size) bool; nearest neighbour at pixel centres, as PIL does it.

        Flip, resize and crop are one choice of source rows and columns: nothing is resized that is cut off.
        """
        height, width = masks.shape[1:]
        rows = self._source(height, axis=0, flipped=self.flip == "vertical")
        columns = self._source(width, axis=1, flipped=self.flip == "horizontal")
        # Masks from RLE lie in memory by column, so both choices copy whole lines: five times as fast.
        crop = torch.from_numpy(masks.transpose(0, 2, 1)).index_select(1, columns)
        crop = crop.transpose(1, 2).contiguous().index_select(1, rows).view(torch.bool)
        return pad(crop, (0, self.size - len(columns), 0, self.size - len(rows)))

    def _source(self, length: int, *, axis: int, flipped: bool) -> Tensor:
        """The source row (axis 0) or column (axis 1) of each row or column of the crop."""
        resized, start = self.resized[axis], self.offset[axis]
        target = torch.arange(start, min(start + self.size, resized), dtype=torch.float64)
        source = ((target + 0.5) * (length / resized)).long().clamp(max=length - 1)
        return length - 1 - source if flipped else source


def shortest_edge_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Height and width when the shorter edge becomes `min_size`, if the longer one stays within `max_size`.

    `min_size` 0 keeps the size. Rounding is detectron2's (ResizeShortestEdge.get_output_shape), step by step.
    """
    if min_size == 0:
        return height, width
    scale = min_size / min(height, width)
    new_height, new_width = (min_size, scale * width) if height < width else (scale * height, min_size)
    longest = max(new_height, new_width)
    if longest > max_size:
        new_height, new_width = new_height * (max_size / longest), new_width * (max_size / longest)
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize_shortest_edge(image: npt.NDArray[np.uint8], min_size: int, max_size: int) -> Tensor:
    """(H, W, 3) uint8 to (3, h, w) uint8, by the rule of `shortest_edge_size`; bilinear with antialiasing."""
    height, width = image.shape[:2]
    size = shortest_edge_size(height, width, min_size, max_size)
    return _resize(torch.from_numpy(image).permute(2, 0, 1), size).contiguous()


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    resized: Tensor = functional.resize(image, list(size), antialias=True)
    return resized
