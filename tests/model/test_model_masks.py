"""Masks as edges: those of the definition, whether tiles on a CPU are made of cells or whole masks on a device."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as mask_utils
from torch import Tensor

from raytune_m2f.data.masks import Rle, decode, encode_edges
from raytune_m2f.evaluation import encode_masks
from raytune_m2f.model import Edges, Frame, edges_of, masks


def frame_of(rng: random.Random, *, window: bool) -> Frame:
    """Any sizes: enlarged, shrunk, the same; a window of an image or all of it."""
    size = (rng.randint(20, 90), rng.randint(20, 90))
    padded = (-(-size[0] // 32) * 32, -(-size[1] // 32) * 32)
    more = (rng.randint(0, 60), rng.randint(0, 60)) if window else (0, 0)
    resized = (size[0] + more[0], size[1] + more[1])
    original = rng.choice(
        [
            (rng.randint(5, 200), rng.randint(5, 200)),
            resized,
            (2 * resized[0], 2 * resized[1]),
            (rng.randint(300, 600), rng.randint(300, 600)),
        ]
    )
    return Frame(padded, size, resized, original, rng.randint(0, more[0]), rng.randint(0, more[1]))


def logits_of(rng: random.Random, frame: Frame) -> Tensor:
    """Noise, blobs, nothing, everything, and steps that put pixels exactly between two signs."""
    noise = torch.randn(6, frame.padded[0] // 4, frame.padded[1] // 4) * rng.choice([0.1, 1.0, 10.0])
    smooth = F.avg_pool2d(noise, 5, 1, 2) - 0.2 * noise.std()
    logits = torch.cat((noise[:2], smooth))
    logits[0], logits[1] = -1.0, 1.0
    logits[2] = logits[2].sign()
    return logits


def joined(parts: list[tuple[list[Edges], Tensor]]) -> tuple[list[Edges], Tensor]:
    return [each for edges, _ in parts for each in edges], torch.cat([quality for _, quality in parts])


def tiled(logits: Tensor, frame: Frame) -> tuple[list[Edges], Tensor]:
    return joined(list(masks._tiled_parts(logits, frame)))


def on_device(logits: Tensor, frame: Frame) -> tuple[list[Edges], Tensor]:
    """The way of a GPU, here too."""
    return joined([(edges_of(part), quality) for part, quality in masks._whole_parts(logits, frame)])


@pytest.mark.parametrize("made", [tiled, on_device])
@pytest.mark.parametrize("at_once", [1, masks.FLOATS_AT_ONCE])
@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_edges_are_the_whole_masks(
    seed: int,
    window: bool,
    at_once: int,
    made: Callable[[Tensor, Frame], tuple[list[Edges], Tensor]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    frame = frame_of(rng, window=window)
    logits = logits_of(rng, frame)
    wanted, wanted_quality = masks.whole_masks(logits, frame)

    monkeypatch.setattr(masks, "FLOATS_AT_ONCE", at_once)
    edges, quality = made(logits, frame)

    assert torch.equal(masks.painted(edges, frame.original), wanted)
    torch.testing.assert_close(quality, wanted_quality, atol=1e-6, rtol=0)
    assert encode_edges(edges, frame.original) == encode_masks(wanted)


def test_what_is_not_finite_is_the_definitions() -> None:
    frame = Frame((32, 32), (32, 32), (32, 32), (50, 40))
    logits = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 3, 4], logits[1, 2, 2], logits[2] = float("nan"), float("inf"), 3e38
    wanted, wanted_quality = masks.whole_masks(logits, frame)
    edges, quality = tiled(logits, frame)
    assert torch.equal(masks.painted(edges, frame.original), wanted)
    torch.testing.assert_close(quality, wanted_quality, equal_nan=True)


def test_where_rounding_could_decide_the_definition_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways round differently, but by less than is provided for; only pixels that close need the definition."""
    torch.manual_seed(0)
    frame = Frame((128, 128), (128, 128), (128, 128), (307, 311))
    cells = F.avg_pool2d(torch.randn(1, 32, 32), 5, 1, 2)
    exact = F.interpolate(cells[None], size=(128, 128), mode="bilinear", align_corners=False)
    exact = F.interpolate(exact, size=frame.original, mode="bilinear", align_corners=False)[0, 0]
    rows, columns = (masks._Tiles.of(32, frame, axis) for axis in (0, 1))
    right, below = len(columns.low) * columns.side - 311, len(rows.low) * rows.side - 307
    lines = F.pad(exact, (0, right, 1, below + 1)).T.numpy()
    windows = np.lib.stride_tricks.sliding_window_view(cells[0], (rows.taps.shape[2], columns.taps.shape[2]))
    most = 0.0
    for band, low in enumerate(rows.low):
        read = windows[low, columns.low]
        ours, around = (np.concatenate(masks._resized(x, rows.taps[band], columns.taps)) for x in (read, np.abs(read)))
        error = np.abs(ours - lines[:, band * rows.side :][:, : ours.shape[1]])
        assert (error <= masks.ROUNDING / 2 * around).all()
        most = max(most, error.max())
    assert most > 0

    calls = []
    whole_masks = masks.whole_masks

    def counted(logits: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        calls.append(len(logits))
        return whole_masks(logits, frame)

    monkeypatch.setattr(masks, "whole_masks", counted)
    tiled(cells, frame)
    assert not calls
    tiled(cells.sign(), frame)  # 0 lies exactly in the middle between two cells
    assert calls


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("size", [(7, 5), (1, 6), (6, 1)])
def test_run_lengths_of_edges_are_those_of_the_mask(size: tuple[int, int], device: str) -> None:
    rng = np.random.default_rng(0)
    several = np.stack([rng.random(size) < share for share in (0.0, 0.3, 0.5, 0.7, 1.0, 1.0, 0.5, 0.0)])
    several[-1].T.flat[-1] = several[2].T.flat[-1] = True  # one ends where the next begins
    edges = edges_of(torch.from_numpy(several).to(device))
    assert torch.equal(masks.painted(edges, size), torch.from_numpy(several))
    for mask, rle in zip(several, encode_edges(edges, size), strict=True):
        wanted: Rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        assert rle == {"size": [*size], "counts": wanted["counts"].decode("ascii")}
        assert (decode([rle], *size)[0] == mask).all()
    assert edges_of(torch.from_numpy(several[:0])) == []
