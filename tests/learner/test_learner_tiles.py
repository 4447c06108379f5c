"""Windows of an image, and ground truth that is cut into them and comes out of the merging again."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from raytune_m2f.data import load_coco, shortest_edge_size
from raytune_m2f.data.masks import Rle, decode, encode_edges
from raytune_m2f.learner.tiles import Window, merged, windows_of
from raytune_m2f.model import edges_of


def rle(mask: NDArray[np.bool_]) -> Rle:
    height, width = mask.shape
    return encode_edges(edges_of(torch.from_numpy(mask)[None]), (height, width))[0]


@pytest.mark.parametrize("size", [(100, 100), (256, 256), (257, 256), (300, 1000), (1000, 64)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.9])
def test_windows_cover_the_image_and_overlap(size: tuple[int, int], overlap: float) -> None:
    windows = windows_of(size, size, size=256, overlap=overlap)
    seen = np.zeros(size, int)
    for window in windows:
        assert window.size == (min(256, size[0]), min(256, size[1]))
        rows, columns = (
            slice(start, start + length) for start, length in zip((window.top, window.left), window.size, strict=True)
        )
        seen[rows, columns] += 1
        left, top, right, bottom = window.box
        assert (top, left) <= (window.top, window.left)
        assert (bottom, right) >= (window.top + window.size[0], window.left + window.size[1])
    assert seen.min() == 1 or overlap > 0.5
    assert len(windows) == 1 or size[0] > 256 or size[1] > 256
    for axis in (0, 1):
        starts = sorted({(w.top, w.left)[axis] for w in windows})
        assert all(b - a <= 256 * (1 - overlap) for a, b in pairwise(starts))


def cut(masks: NDArray[np.bool_], window: Window) -> NDArray[np.bool_]:
    left, top, right, bottom = window.box
    found = np.zeros_like(masks)
    found[:, top:bottom, left:right] = masks[:, top:bottom, left:right]
    return found


@pytest.mark.parametrize(
    ("name", "resize", "size", "overlap"),
    [
        ("nuclei_dsb", (0, 512), 96, 0.25),
        ("nuclei_dsb", (352, 448), 160, 0.1),
        ("fruits_nuts", (0, 512), 128, 0.25),  # fruits are larger than the overlap, some than the window
        ("fruits_nuts", (192, 256), 96, 0.5),
    ],
)
def test_ground_truth_that_is_cut_into_windows_comes_out_again(
    data_root: Path, name: str, resize: tuple[int, int], size: int, overlap: float
) -> None:
    data = load_coco(name, data_root / name / "annotations_val.json", data_root / name / "val", ())
    restored = total = 0
    for number, record in enumerate(data.records[::3]):
        height, width = record.height, record.width
        instances = record.instances
        whole = [a.rle(height, width) for a in instances]
        masks = decode(whole, height, width).astype(bool)
        windows = windows_of(shortest_edge_size(height, width, *resize), (height, width), size=size, overlap=overlap)
        numbers, parts, labels, scores = [], [], [], []
        rng = np.random.default_rng(number)
        for window_number, window in enumerate(windows):
            for index, mask in enumerate(cut(masks, window)):
                if mask.any():
                    numbers.append(window_number)
                    parts.append(rle(mask))
                    labels.append(instances[index].label)
                    scores.append(float(rng.random()))
        found = merged(windows, numbers, parts, labels, scores, 0.5)
        assert [scores[best] for best, _ in found] == sorted((scores[best] for best, _ in found), reverse=True)
        counts = [mask["counts"] for _, mask in found]
        assert len(set(counts)) == len(counts)
        restored += len(set(counts) & {mask["counts"] for mask in whole})
        total += len(whole)
    assert restored == total
