"""Augmentation beside large-scale jitter, off unless the configuration says so: colour jitter and copy-paste."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from raytune_m2f.model import Target

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


@dataclass(frozen=True)
class CopyPaste:
    """Paste instances of another training image (INPUT.COPY_PASTE).

    Source: Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation for Instance Segmentation (2021, section 3):
    both images with their own large-scale jitter and flip, a random subset of the instances of one, pasted as they are
    (blending their edges made no difference, section 3 there).

    Attributes:
        probability: that an image gets instances of another one.
        most: instances of the other image that are pasted at most, if they are in its crop; 0 = any number.
    """

    probability: float
    most: int = 0

    def choose(self, rng: np.random.Generator, instances: int) -> list[int]:
        """Which of the other image's instances are pasted, ascending: one at least, any number as probable."""
        most = min(self.most or instances, instances)
        return sorted(rng.choice(instances, int(rng.integers(1, most + 1)), replace=False).tolist())


def paste(image: Tensor, target: Target, other: Tensor, pasted: Target) -> tuple[Tensor, Target]:
    """Put the `pasted` instances of another image over `image`; what they hide of its own is cut off their masks.

    Args:
        image, other: (3, H, W) uint8.
        target, pasted: instances of both, with the same heads. Labels stay what they were, those that depend on the
            surroundings (touching, cut off) too.

    Returns:
        the image and its instances: those of its own of which something is left to see, then the pasted ones.
    """
    covered = pasted.masks.any(0)
    left = target.masks & ~covered
    visible = left.flatten(1).any(1)
    return torch.where(covered, other, image), Target(
        labels=torch.cat((target.labels[visible], pasted.labels)),
        masks=torch.cat((left[visible], pasted.masks)),
        sublabels={h: torch.cat((own[visible], pasted.sublabels[h])) for h, own in target.sublabels.items()},
    )
