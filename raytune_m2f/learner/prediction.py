"""Predictions of our network as the configuration's TEST asks for them: in training's evaluation and of an export."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.config.fields.model import MaskFormerTest
from raytune_m2f.data.masks import Rle, decode, encode_edges
from raytune_m2f.learner.sieves import choice_of, without_duplicates
from raytune_m2f.learner.tiles import Window, merged, windows_of
from raytune_m2f.model import Frame, Instances, MultiTaskMaskFormer, PackedInstances, padded_size

Size = tuple[int, int]
Found = PackedInstances[Rle]


def predict(
    network: MultiTaskMaskFormer, config: Config, images: Sequence[Tensor], original_sizes: Sequence[Size]
) -> list[Found]:
    """The instances of each (3, h, w) RGB image, masks as run lengths at `original_sizes` (height, width)."""
    tests = [config.MODEL.MASK_FORMER.TEST]
    return [found for (found,) in predict_variants(network, config, images, original_sizes, tests)]


def predict_variants(
    network: MultiTaskMaskFormer,
    config: Config,
    images: Sequence[Tensor],
    original_sizes: Sequence[Size],
    tests: Sequence[MaskFormerTest],
) -> list[list[Found]]:
    """`predict` for several MODEL.MASK_FORMER.TEST in place of the configuration's: for each image, those of each.

    The network runs once, and makes the mask of a query once.
    """
    if config.TEST.TILES.ENABLED:
        sizes = zip(images, original_sizes, strict=True)
        return [_predict_tiles(network, config, image, original, tests) for image, original in sizes]
    choices = [choice_of(test) for test in tests]
    most = config.TEST.DETECTIONS_PER_IMAGE
    found = network.predict_packed(images, original_sizes, encode_edges, choices, max_instances=most)
    return [[without_duplicates(one, test) for one, test in zip(each, tests, strict=True)] for each in found]


def predict_whole(
    network: MultiTaskMaskFormer, config: Config, images: Sequence[Tensor], original_sizes: Sequence[Size]
) -> list[Instances]:
    """`predict` with whole masks."""
    test = config.MODEL.MASK_FORMER.TEST
    if not config.TEST.TILES.ENABLED and test.NMS_THRESHOLD == 1:
        most = config.TEST.DETECTIONS_PER_IMAGE
        return network.predict(images, original_sizes, choice_of(test), max_instances=most)
    found = predict(network, config, images, original_sizes)
    return [_unpacked(each, *size) for each, size in zip(found, original_sizes, strict=True)]


def _unpacked(found: Found, height: int, width: int) -> Instances:
    masks = torch.from_numpy(decode(found.masks, height, width)).bool().to(found.scores.device)
    return Instances(found.scores, found.labels, masks, found.queries, found.subprobs)


def _predict_tiles(
    network: MultiTaskMaskFormer, config: Config, image: Tensor, original: Size, tests: Sequence[MaskFormerTest]
) -> list[Found]:
    """The instances of one image from its windows, TEST.IMS_PER_BATCH at once, for each of `tests`."""
    tiles, at_once, most = config.TEST.TILES, config.TEST.IMS_PER_BATCH, config.TEST.DETECTIONS_PER_IMAGE
    resized = (image.shape[1], image.shape[2])
    windows = windows_of(resized, original, size=tiles.SIZE, overlap=tiles.OVERLAP)
    # two windows may disagree on an object's category: each has all of its labels until the windows are merged
    choices = [choice_of(test, one_label=len(windows) == 1) for test in tests]
    found: list[list[Found]] = []
    for start in range(0, len(windows), at_once):
        batch = windows[start : start + at_once]
        parts = [image[:, w.top : w.top + w.size[0], w.left : w.left + w.size[1]] for w in batch]
        padded = padded_size(parts, network.size_divisibility)
        frames = [Frame(padded, w.size, resized, original, w.top, w.left) for w in batch]
        found += network.predict_frames(parts, frames, encode_edges, choices, max_instances=most)
    return [
        merge_windows(windows, of_windows, tiles.NMS_THRESHOLD, most, test)
        for of_windows, test in zip(zip(*found, strict=True), tests, strict=True)
    ]


def merge_windows(
    windows: Sequence[Window], found: Sequence[Found], threshold: float, most: int, test: MaskFormerTest
) -> Found:
    """The instances of an image from those of each of its windows, best first: see `tiles.merged`.

    Args:
        found: of each window, masks at the size of the image.
        threshold: TEST.TILES.NMS_THRESHOLD.
        most: instances to keep.
        test: how duplicates are found among what was merged.
    """
    whole = without_duplicates(_merged(windows, found, threshold), test)
    return whole.chosen(torch.arange(len(whole), device=whole.scores.device)[:most])


def _merged(windows: Sequence[Window], found: Sequence[Found], threshold: float) -> Found:
    if len(windows) == 1:
        return found[0]
    scores, labels = (torch.cat([getattr(each, name) for each in found]) for name in ("scores", "labels"))
    masks = [mask for each in found for mask in each.masks]
    numbers = [number for number, each in enumerate(found) for _ in each.masks]
    groups = merged(windows, numbers, masks, labels.tolist(), scores.tolist(), threshold)
    kept = torch.tensor([best for best, _ in groups], dtype=torch.int64, device=scores.device)
    return PackedInstances(
        scores=scores[kept],
        labels=labels[kept],
        masks=[mask for _, mask in groups],
        queries=torch.cat([each.queries for each in found])[kept],
        subprobs={name: torch.cat([each.subprobs[name] for each in found])[kept] for name in found[0].subprobs},
    )
