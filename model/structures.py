"""What goes into the loss and what comes out of inference, one image at a time.

Shapes: N instances of the ground truth, K kept predictions, H W pixels, C_k classes of subcategory head k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
UNKNOWN = -1
"""Label of a subcategory that an annotation does not give: no cost, no loss, no metric."""


@dataclass(frozen=True)
class Target:
    """The ground truth of one image.

    Attributes:
        labels: (N,) int64, main categories, 0-based and contiguous.
        masks: (N, H, W) bool, in the frame of the network's input image.
        sublabels: for each subcategory head (N,) int64, 0-based, `UNKNOWN` (-1) where not given.
    """

    labels: Tensor
    masks: Tensor
    sublabels: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Target:
        """The same on a device; copies from pinned memory do not wait."""
        return Target(
            labels=self.labels.to(device, non_blocking=True),
            masks=self.masks.to(device, non_blocking=True),
            sublabels={name: labels.to(device, non_blocking=True) for name, labels in self.sublabels.items()},
        )


@dataclass(frozen=True)
class TargetBatch:
    """The ground truth of a batch: the instances of its images one after the other, N in all.

    Attributes:
        sizes: instances of each image; they add up to N.
        images: (N,) int64, the image of each instance.
        slots: (N,) int64, its number within the image.
        labels, sublabels: as in `Target`, (N,) each.
        masks: (N, H, W) float32, 0 or 1.
    """

    sizes: tuple[int, ...]
    images: Tensor
    slots: Tensor
    labels: Tensor
    sublabels: dict[str, Tensor]
    masks: Tensor

    @classmethod
    def of(cls, targets: Sequence[Target]) -> TargetBatch:
        """Join targets whose masks have the same size and that lie on the same device."""
        sizes = tuple(len(target) for target in targets)
        slots = np.concatenate([np.arange(size) for size in sizes])
        places = np.stack((np.repeat(np.arange(len(sizes)), sizes), slots))
        images, slot = torch.from_numpy(places).to(targets[0].labels.device, non_blocking=True).unbind()
        sublabels = {name: torch.cat([t.sublabels[name] for t in targets]) for name in targets[0].sublabels}
        masks = torch.cat([t.masks for t in targets]).float()
        return cls(sizes, images, slot, torch.cat([t.labels for t in targets]), sublabels, masks)


@dataclass(frozen=True)
class Instances:
    """The predicted instances of one image, best first.

    Attributes:
        scores: (K,) float32, the ranking score: class probability times mask quality.
        labels: (K,) int64, main categories.
        masks: (K, H, W) bool, at the size of the original image.
        queries: (K,) int64, which query each instance comes from.
        subprobs: for each subcategory head (K, C_k) float32, probabilities without the no-object class
            (they sum to one minus the probability of no-object).
    """

    scores: Tensor
    labels: Tensor
    masks: Tensor
    queries: Tensor
    subprobs: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def sublabels(self) -> dict[str, Tensor]:
        """For each subcategory head (K,) int64: its most probable class, no-object left out."""
        return {name: probs.argmax(-1) for name, probs in self.subprobs.items()}

    def to(self, device: torch.device | str) -> Instances:
        """The same on a device."""
        return Instances(
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=self.masks.to(device),
            queries=self.queries.to(device),
            subprobs={name: probs.to(device) for name, probs in self.subprobs.items()},
        )


@dataclass(frozen=True)
class PackedInstances(Generic[T]):
    """`Instances` whose masks are kept as something smaller, K of them."""

    scores: Tensor
    labels: Tensor
    masks: list[T]
    queries: Tensor
    subprobs: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)

    def to(self, device: torch.device | str) -> PackedInstances[T]:
        """The same on a device, but for the masks, which stay what they are."""
        return PackedInstances(
            scores=self.scores.to(device),
            labels=self.labels.to(device),
            masks=self.masks,
            queries=self.queries.to(device),
            subprobs={name: probs.to(device) for name, probs in self.subprobs.items()},
        )

    def chosen(self, index: Tensor) -> PackedInstances[T]:
        """The instances of these numbers (k,) int64, in their order."""
        return PackedInstances(
            scores=self.scores[index],
            labels=self.labels[index],
            masks=[self.masks[i] for i in index.tolist()],
            queries=self.queries[index],
            subprobs={name: probs[index] for name, probs in self.subprobs.items()},
        )
