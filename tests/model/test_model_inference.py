"""Masks on a CPU, made of what their positive cells reach, are those of the definition."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pycocotools import mask as mask_utils
from torch import Tensor

from raytune_m2f.data.masks import Rle, decode, encode_crops
from raytune_m2f.evaluation import encode_masks
from raytune_m2f.model import Frame, MaskCrop, inference


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


def made(logits: Tensor, frame: Frame) -> tuple[list[MaskCrop], Tensor]:
    parts = list(inference._cropped(logits, frame))
    return [crop for crops, _ in parts for crop in crops], torch.cat([quality for _, quality in parts])


def pasted(crops: list[MaskCrop], frame: Frame) -> Tensor:
    masks = torch.zeros(len(crops), *frame.original, dtype=torch.bool)
    for mask, crop in zip(masks, crops, strict=True):
        crop.paste(mask)
    return masks


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_cropped_masks_are_the_whole_ones(seed: int, window: bool) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    frame = frame_of(rng, window=window)
    logits = logits_of(rng, frame)
    wanted, wanted_quality = inference.whole_masks(logits, frame)

    crops, quality = made(logits, frame)

    assert torch.equal(pasted(crops, frame), wanted)
    torch.testing.assert_close(quality, wanted_quality, atol=1e-6, rtol=0)
    assert encode_crops(crops, frame.original) == encode_masks(wanted)


def test_what_is_not_finite_is_the_definitions() -> None:
    frame = Frame((32, 32), (32, 32), (32, 32), (50, 40))
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 3, 4], logits[1, 2, 2] = float("nan"), float("inf")
    wanted, wanted_quality = inference.whole_masks(logits, frame)
    crops, quality = made(logits, frame)
    assert torch.equal(pasted(crops, frame), wanted)
    torch.testing.assert_close(quality, wanted_quality, equal_nan=True)


def test_where_rounding_could_decide_the_definition_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two ways round differently, but by less than is provided for; only pixels that close need the definition."""
    torch.manual_seed(0)
    frame = Frame((128, 128), (128, 128), (128, 128), (307, 311))
    cells = F.avg_pool2d(torch.randn(1, 32, 32), 5, 1, 2)
    rows, columns = (inference._Axis.of(32, frame, axis) for axis in (0, 1))
    exact = F.interpolate(cells[None], size=(128, 128), mode="bilinear", align_corners=False)
    exact = F.interpolate(exact, size=frame.original, mode="bilinear", align_corners=False)[0, 0]
    ours, around = (rows.weights @ x[0] @ columns.weights.T for x in (cells, cells.abs()))
    error = ((ours - exact).abs() / around).max()
    assert 0 < error < inference.ROUNDING / 2

    calls = []
    whole_masks = inference.whole_masks

    def counted(logits: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        calls.append(len(logits))
        return whole_masks(logits, frame)

    monkeypatch.setattr(inference, "whole_masks", counted)
    made(cells, frame)
    assert not calls
    made(cells.sign(), frame)  # 0 lies exactly in the middle between two cells
    assert calls


def test_run_lengths_of_a_crop_are_those_of_its_mask() -> None:
    rng = np.random.default_rng(0)
    for lines, columns, top, left in [
        (7, 5, 0, 0),
        (7, 3, 0, 2),
        (3, 5, 2, 0),
        (3, 2, 4, 3),
        (0, 0, 0, 0),
        (7, 1, 0, 4),
    ]:
        for share in (0.0, 0.3, 0.7, 1.0):
            crop = MaskCrop(torch.from_numpy(rng.random((lines, columns)) < share), top, left)
            mask = np.zeros((7, 5), np.uint8, order="F")
            mask[top : top + lines, left : left + columns] = crop.mask.numpy()
            wanted: Rle = mask_utils.encode(mask)
            (rle,) = encode_crops([crop], (7, 5))
            assert rle == {"size": [7, 5], "counts": wanted["counts"].decode("ascii")}
            assert (decode([rle], 7, 5)[0] == mask).all()
