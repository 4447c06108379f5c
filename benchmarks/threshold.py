"""Instances without learning: Otsu's threshold, seeds of the distance transform, watershed. What a network has to beat.

Classes are the majority's of the training annotations. Otsu, "A threshold selection method from gray-level histograms",
1979; the watershed is Meyer's flooding ("Un algorithme optimal pour la ligne de partage des eaux", 1991).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from raytune_m2f.data import CocoDataset, ImageRecord, read_image
from raytune_m2f.evaluation import Result, instances_to_results
from raytune_m2f.model import UNKNOWN, Instances
from raytune_m2f.visualize.overlay import certain_probabilities

LEAST_AREA = 20  # pixels: what is smaller is noise


def otsu(grey: NDArray[np.uint8]) -> int:
    """The threshold that parts the pixels at or below it from those above with the largest variance between both."""
    share = np.bincount(grey.ravel(), minlength=256) / grey.size
    below, mean = share.cumsum(), (share * np.arange(256)).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (mean[-1] * below - mean) ** 2 / (below * (1 - below))
    return int(np.nanargmax(np.where(np.isfinite(variance), variance, 0)))


def find_objects(image: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Masks (N, H, W) of an RGB image (H, W, 3), and their scores: how much they stand out from the background."""
    grey = np.asarray(image @ [0.299, 0.587, 0.114], dtype=np.uint8)
    bright = grey > otsu(grey)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    objects = ~bright if border.mean() > 0.5 else bright  # the background is what most of the border is
    objects = ndimage.binary_fill_holes(ndimage.binary_opening(objects))
    if not objects.any() or objects.all():
        return np.zeros((0, *grey.shape), bool), np.zeros(0, np.float32)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(objects), 1)
    width = 2 * round(0.7 * float(np.percentile(depth[objects], 90))) + 1
    seeds, _ = ndimage.label(objects & (depth == ndimage.maximum_filter(depth, max(width, 3))), np.ones((3, 3)))
    parts = flood(depth, seeds.astype(np.int32), objects)
    numbers = [n for n, area in enumerate(np.bincount(parts[parts > 0])) if area >= LEAST_AREA]
    masks = np.stack([parts == n for n in numbers]) if numbers else np.zeros((0, *grey.shape), bool)
    contrast = [abs(float(grey[mask].mean()) - float(grey[~objects].mean())) / 255 for mask in masks]
    return masks, 0.5 + 0.5 * np.array(contrast, np.float32)  # all of them are shown in pictures: at least 0.5


def flood(depth: NDArray[np.float64], seeds: NDArray[np.int32], objects: NDArray[np.bool_]) -> NDArray[np.int32]:
    """The seeds' numbers (H, W), grown over `objects` pixel by pixel, the deepest first; 0 is nobody's."""
    parts = np.pad(seeds, 1)
    free = np.pad(objects, 1) & (parts == 0)
    width = parts.shape[1]
    owner, open_, height = parts.ravel(), free.ravel(), -np.pad(depth, 1).ravel()
    steps = (-width, width, -1, 1)
    heap = [(float(height[pixel]), int(pixel)) for pixel in np.flatnonzero(owner)]
    heapq.heapify(heap)
    while heap:
        _, pixel = heapq.heappop(heap)
        for step in steps:
            if open_[pixel + step]:
                open_[pixel + step], owner[pixel + step] = False, owner[pixel]
                heapq.heappush(heap, (float(height[pixel + step]), pixel + step))
    return parts[1:-1, 1:-1]


def majority(values: Iterable[int]) -> int:
    """The most frequent label, the smallest of several; 0 without any."""
    counts = Counter(value for value in values if value != UNKNOWN)
    return min(counts, key=lambda value: (-counts[value], value), default=0)


def threshold_results(train: CocoDataset, records: Iterable[ImageRecord]) -> list[Result]:
    """COCO results of the images; every object is given the labels that most of the training annotations have."""
    known = [annotation for record in train.records for annotation in record.instances]
    label = majority(annotation.label for annotation in known)
    heads = {
        name: majority(annotation.sublabels[name] for annotation in known) for name in train.categories.subcategories
    }
    results = []
    for record in records:
        masks, scores = find_objects(read_image(record.file))
        found = Instances(
            scores=torch.from_numpy(scores),
            labels=torch.full((len(masks),), label),
            masks=torch.from_numpy(masks),
            queries=torch.arange(len(masks)),
            subprobs={
                name: certain_probabilities([heads[name]] * len(masks), len(classes))
                for name, classes in train.categories.subcategories.items()
            },
        )
        results += instances_to_results(found, image_id=record.id, categories=train.categories)
    return results
