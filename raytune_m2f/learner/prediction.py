"""Predictions of our network as the configuration's TEST asks for them: in training's evaluation and of an export."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data.masks import Rle, decode, encode_crops
from raytune_m2f.learner.tiles import Window, merged, windows_of
from raytune_m2f.model import Frame, Instances, MultiTaskMaskFormer, PackedInstances, padded_size

Size = tuple[int, int]
Found = PackedInstances[Rle]


def predict(
    network: MultiTaskMaskFormer, config: Config, images: Sequence[Tensor], original_sizes: Sequence[Size]
) -> list[Found]:
    """The instances of each (3, h, w) RGB image, masks as run lengths at `original_sizes` (height, width)."""
    if config.TEST.TILES.ENABLED:
        sizes = zip(images, original_sizes, strict=True)
        return [_predict_tiles(network, config, image, original) for image, original in sizes]
    return network.predict_packed(images, original_sizes, encode_crops, **_options(config))


def predict_whole(
    network: MultiTaskMaskFormer, config: Config, images: Sequence[Tensor], original_sizes: Sequence[Size]
) -> list[Instances]:
    """`predict` with whole masks."""
    if not config.TEST.TILES.ENABLED:
        return network.predict(images, original_sizes, **_options(config))
    found = predict(network, config, images, original_sizes)
    return [_unpacked(each, *size) for each, size in zip(found, original_sizes, strict=True)]


def _unpacked(found: Found, height: int, width: int) -> Instances:
    masks = torch.from_numpy(decode(found.masks, height, width)).bool().to(found.scores.device)
    return Instances(found.scores, found.labels, masks, found.queries, found.subprobs)


def _predict_tiles(network: MultiTaskMaskFormer, config: Config, image: Tensor, original: Size) -> Found:
    """The instances of one image from its windows, TEST.IMS_PER_BATCH at once."""
    tiles, at_once = config.TEST.TILES, config.TEST.IMS_PER_BATCH
    resized = (image.shape[1], image.shape[2])
    windows = windows_of(resized, original, size=tiles.SIZE, overlap=tiles.OVERLAP)
    found: list[Found] = []
    for start in range(0, len(windows), at_once):
        batch = windows[start : start + at_once]
        parts = [image[:, w.top : w.top + w.size[0], w.left : w.left + w.size[1]] for w in batch]
        padded = padded_size(parts, network.size_divisibility)
        frames = [Frame(padded, w.size, resized, original, w.top, w.left) for w in batch]
        found += network.predict_frames(parts, frames, encode_crops, **_options(config))
    return merge_windows(windows, found, tiles.NMS_THRESHOLD, config.TEST.DETECTIONS_PER_IMAGE)


def merge_windows(windows: Sequence[Window], found: Sequence[Found], threshold: float, most: int) -> Found:
    """The instances of an image from those of each of its windows, best first: see `tiles.merged`.

    Args:
        found: of each window, masks at the size of the image.
        threshold: TEST.TILES.NMS_THRESHOLD.
        most: instances to keep.
    """
    if len(windows) == 1:
        return found[0]
    scores, labels = (torch.cat([getattr(each, name) for each in found]) for name in ("scores", "labels"))
    masks = [mask for each in found for mask in each.masks]
    numbers = [number for number, each in enumerate(found) for _ in each.masks]
    groups = merged(windows, numbers, masks, labels.tolist(), scores.tolist(), threshold)[:most]
    kept = torch.tensor([best for best, _ in groups], dtype=torch.int64, device=scores.device)
    return PackedInstances(
        scores=scores[kept],
        labels=labels[kept],
        masks=[mask for _, mask in groups],
        queries=torch.cat([each.queries for each in found])[kept],
        subprobs={name: torch.cat([each.subprobs[name] for each in found])[kept] for name in found[0].subprobs},
    )


def _options(config: Config) -> dict[str, Any]:
    return {"max_instances": config.TEST.DETECTIONS_PER_IMAGE, "ranking": config.MODEL.MASK_FORMER.TEST.RANKING}
