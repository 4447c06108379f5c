"""Windows of some training images: what the checks of the network look at, and learn.

Small, so that a CPU learns them within the time that a doctor has; with few instances each, of many classes of every
head, for a head of which only one class is seen has nothing to tell apart.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from raytune_m2f.config import Config
from raytune_m2f.data import TrainSample
from raytune_m2f.engines import Engine
from raytune_m2f.engines.datasets import DatasetEngine
from raytune_m2f.model import MAIN, UNKNOWN, Target

WINDOWS = 2
"""How many: what one of a batch must not tell of another needs two."""
LOOKED_AT = 24
"""Training images to choose from, at most."""
ENOUGH = 8
"""As many do, if every head has two classes among them."""
SIDE = {"cpu": 128, "cuda": 384}
"""Of a window as the network sees it, at most [pixels]."""
LEAST_SIDE = 64
"""The coarsest map has four cells then: of one cell GroupNorm leaves nothing where a group has one channel."""
SCALES = (1, 2, 4)
"""A window is the image, or has so many times less of its side."""
FEW = 6
"""Instances of a window; one with more takes longer to learn."""
LEAST = 9
"""Cells of `GRID` that an instance must have to be learned; less are a fragment."""
GRID = 32
"""Cells along a window where instances are counted."""


@dataclass(frozen=True)
class Excerpt:
    """Windows of training images, all of one size.

    Attributes:
        samples: the windows, `WINDOWS` of them, as training samples; none where no image looked at has an instance.
        side: of each, in pixels.
        looked_at: how many training images they were chosen from.
        unlabelled: the heads without a known label in any of the windows.
    """

    samples: tuple[TrainSample, ...]
    side: int
    looked_at: int
    unlabelled: tuple[str, ...] = ()

    @property
    def images(self) -> list[Tensor]:
        """(3, side, side) uint8 each."""
        return [sample.image for sample in self.samples]

    def labels(self, head: str) -> Tensor:
        """(N,) known labels of all windows' instances; `head` may be `MAIN`."""
        return _known(torch.cat([labels_of(sample.target)[head] for sample in self.samples]))


def excerpt_of(engine: Engine[Any, Any, Any], config: Config, device: torch.device) -> Excerpt | None:
    """Choose windows of the first images of a training; None if the engine's samples are not our network's.

    Raises:
        DatasetError: an image cannot be read.
    """
    looked_at: list[TrainSample] = []
    for sample in islice(first_samples(engine, config), LOOKED_AT):
        if not isinstance(sample, TrainSample):
            return None
        looked_at.append(sample)
        if len(looked_at) >= ENOUGH and _is_varied(looked_at):
            break
    smallest = min(min(sample.image.shape[1:]) for sample in looked_at)
    side = max(LEAST_SIDE, min(SIDE.get(device.type, SIDE["cuda"]), -(-smallest // 32) * 32))
    chosen = _varied_windows(looked_at)
    samples = tuple(window.sample(side) for window in chosen)
    heads = labels_of(samples[0].target) if samples else {}
    excerpt = Excerpt(samples, side, len(looked_at))
    return Excerpt(samples, side, len(looked_at), tuple(head for head in heads if not len(excerpt.labels(head))))


def first_samples(engine: Engine[Any, Any, Any], config: Config) -> Iterator[Any]:
    """The training samples in their order, made in this process: one at a time where that can be had."""
    if isinstance(engine, DatasetEngine):
        quiet = copy.copy(engine)
        loader = config.DATALOADER.model_copy(update={"NUM_WORKERS": 0})
        solver = config.SOLVER.model_copy(
            update={"IMS_PER_BATCH": 1, "MAX_ITER": max(config.SOLVER.MAX_ITER, LOOKED_AT)}
        )
        quiet.config = config.model_copy(update={"DATALOADER": loader, "SOLVER": solver})
        engine = quiet
    return chain.from_iterable(engine.train_batches(rank=0, world_size=1, start_iteration=0))


def labels_of(target: Target) -> dict[str, Tensor]:
    """Of every head, the main one under `MAIN`."""
    return {MAIN: target.labels, **target.sublabels}


def _known(labels: Tensor) -> Tensor:
    return labels[labels != UNKNOWN]


def _is_varied(samples: Sequence[TrainSample]) -> bool:
    """Whether every head has at least two classes."""
    heads = [labels_of(sample.target) for sample in samples]
    return all(len(_known(torch.cat([h[head] for h in heads])).unique()) > 1 for head in heads[0])


# Windows


@dataclass(frozen=True)
class Window:
    """A square of an image.

    Attributes:
        top, left, size: in its pixels.
        kept: (n,) int64, the instances that are seen in it.
        classes: how often each class of each head is seen.
    """

    whole: TrainSample
    top: int
    left: int
    size: int
    kept: Tensor
    classes: Mapping[str, Counter[int]] = field(default_factory=dict)

    def sample(self, side: int) -> TrainSample:
        """The window at another size, in pixels; masks by the nearest pixel."""
        rows, columns = slice(self.top, self.top + self.size), slice(self.left, self.left + self.size)
        target = self.whole.target
        index = ((torch.arange(side) + 0.5) * (self.size / side)).long()
        masks = target.masks[self.kept][:, rows, columns][:, index][:, :, index]
        labels = {head: of_head[self.kept] for head, of_head in labels_of(target).items()}
        image = functional.resize(self.whole.image[:, rows, columns], [side, side], antialias=True)
        return TrainSample(image, Target(labels.pop(MAIN), masks, labels), self.whole.seed)


def _varied_windows(samples: Sequence[TrainSample]) -> list[Window]:
    """The windows that together show the most classes, with few instances each."""
    chosen: list[Window] = []
    windows = list(chain.from_iterable(_windows(sample) for sample in samples))
    while windows and len(chosen) < WINDOWS:
        best = max(windows, key=lambda window: _worth([*chosen, window]))
        chosen.append(best)
        # not one image twice, if there is another
        others = [window for window in windows if window.whole is not best.whole]
        windows = others or [window for window in windows if window is not best]
    if len(chosen) == 1:
        chosen *= WINDOWS
    return chosen


def _windows(sample: TrainSample) -> Iterator[Window]:
    masks = sample.target.masks
    height, width = masks.shape[1:]
    for scale in SCALES if len(masks) else ():
        size = min(height, width) // scale
        cells = ((torch.arange(GRID) + 0.5) * (size / GRID)).long()
        for top, left in ((t, x) for t in _starts(height, size) for x in _starts(width, size)):
            seen = masks[:, top + cells][:, :, left + cells].flatten(1).sum(1)
            kept = (seen >= min(LEAST, size * size)).nonzero()[:, 0]
            if len(kept):
                classes = {h: Counter(_known(labels[kept]).tolist()) for h, labels in labels_of(sample.target).items()}
                yield Window(sample, top, left, size, kept, classes)


def _starts(length: int, size: int) -> Iterable[int]:
    """At half a window's distance."""
    steps = math.ceil((length - size) / max(1, size // 2))
    return sorted({round(step * (length - size) / max(1, steps)) for step in range(steps + 1)})


def _worth(windows: Sequence[Window]) -> float:
    """The entropy of every head's labels, in units of its largest; less for many instances."""
    heads = windows[0].classes
    counts = [sum((window.classes[head] for window in windows), Counter()) for head in heads]
    crowd = sum(max(0, len(window.kept) - FEW) for window in windows)
    return sum(map(entropy, counts)) / len(heads) - 0.2 * crowd


def entropy(counts: Mapping[int, int]) -> float:
    """Of labels [nat]: the cross-entropy of one who knows how often each class occurs, and nothing else."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values() if n)
