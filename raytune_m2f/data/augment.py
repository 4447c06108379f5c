"""Augmentation beside large-scale jitter, off unless the configuration says otherwise: colour jitter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

BRIGHTNESS = 32 / 255
CONTRAST = SATURATION = (0.5, 1.5)
HUE = 18 / 180


@dataclass(frozen=True)
class ColorJitter:
    """One drawn change of colours: brightness, contrast, saturation, hue, each with probability 1/2.

    Source: Liu et al., SSD (2016, section 2.2: the photometric distortions of Howard 2013), in the ranges and the order
    of the authors' code, which detectron2's ColorAugSSDTransform (INPUT.COLOR_AUG_SSD) has taken over: contrast comes
    before or after saturation and hue. They turn the hue by up to 18 of OpenCV's 180 steps, which are 36 degrees, and
    round to whole levels after each change; here that is done once, at the end.

    Attributes:
        brightness: added [share of the full range].
        contrast: every channel is multiplied by it [factor].
        saturation: HSV's saturation is multiplied by it [factor].
        hue: HSV's hue is turned by it [turns].
        contrast_first: before saturation and hue, not after them.
    """

    brightness: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    contrast_first: bool = True

    @classmethod
    def draw(cls, rng: np.random.Generator) -> ColorJitter:
        """Draw all numbers, used or not, so that each depends on its place in the stream alone."""
        use = rng.random(5) < 0.5
        brightness, contrast = rng.uniform(-BRIGHTNESS, BRIGHTNESS), rng.uniform(*CONTRAST)
        saturation, hue = rng.uniform(*SATURATION), rng.uniform(-HUE, HUE)
        return cls(
            brightness=brightness if use[0] else 0.0,
            contrast=contrast if use[1] else 1.0,
            saturation=saturation if use[2] else 1.0,
            hue=hue if use[3] else 0.0,
            contrast_first=bool(use[4]),
        )

    def __call__(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 RGB to the same."""
        if self == ColorJitter(contrast_first=self.contrast_first) or image.numel() == 0:
            return image
        changed = image.float() / 255
        if self.brightness:
            changed = (changed + self.brightness).clamp(0, 1)
        if self.contrast_first:
            changed = self._with_contrast(changed)
        changed = functional.adjust_hue(_saturated(changed, self.saturation), self.hue)
        if not self.contrast_first:
            changed = self._with_contrast(changed)
        return (changed * 255).round_().to(torch.uint8)

    def _with_contrast(self, image: Tensor) -> Tensor:
        """What torchvision calls brightness: a product. Its own contrast keeps the mean, SSD's does not."""
        multiplied: Tensor = functional.adjust_brightness(image, self.contrast)
        return multiplied


def _saturated(image: Tensor, factor: float) -> Tensor:
    """HSV's saturation times `factor`, at most 1; torchvision's adjust_saturation would change the value too.

    With V the largest channel and S = (V - smallest) / V, each channel is V - S k, k being what the hue says. So it is
    enough to multiply the distances to V, and S reaches 1 where the smallest channel reaches 0.
    """
    if factor == 1.0:
        return image
    low, value = image.aminmax(dim=0)
    most = torch.where(value > low, value / (value - low), 1.0)
    return value - (value - image) * most.clamp(max=factor)
