"""Colour jitter: SSD's changes, of the colours alone."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from raytune_m2f.data import CocoDataset, Jitter, TrainDataset, load_coco
from raytune_m2f.data.augment import BRIGHTNESS, HUE, ColorJitter

Pixels = npt.NDArray[np.float64]


def of_pixels(image: Pixels, drawn: ColorJitter) -> Pixels:
    """Of (N, 3) pixels, from 0 to 1, what the published code does, pixel by pixel, without its rounding."""

    def contrast(pixels: Pixels) -> Pixels:
        return np.clip(pixels * drawn.contrast, 0, 1)

    changed = np.clip(image + drawn.brightness, 0, 1)
    if drawn.contrast_first:
        changed = contrast(changed)
    turned = []
    for pixel in changed:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        turned.append(colorsys.hsv_to_rgb((hue + drawn.hue) % 1, min(saturation * drawn.saturation, 1), value))
    changed = np.array(turned)
    return changed if drawn.contrast_first else contrast(changed)


def test_the_colours_are_those_of_ssd() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 8, 9), np.uint8)
    image[:, 0] = image[:1, 0]  # grey
    image[:, 1, :2] = ((0, 255), (0, 255), (0, 255))  # black and white
    for _ in range(40):
        drawn = ColorJitter.draw(rng)
        ours = drawn(torch.from_numpy(image)).flatten(1).T.numpy()
        theirs = of_pixels(image.reshape(3, -1).T / 255, drawn) * 255
        assert np.abs(ours - theirs).max() < 0.51


def test_each_change_has_probability_one_half_and_its_published_range() -> None:
    rng = np.random.default_rng(1)
    drawn = [ColorJitter.draw(rng) for _ in range(2000)]
    changes = {
        "brightness": (0.0, -BRIGHTNESS, BRIGHTNESS),
        "contrast": (1.0, 0.5, 1.5),
        "saturation": (1.0, 0.5, 1.5),
        "hue": (0.0, -HUE, HUE),
    }
    for name, (none, low, high) in changes.items():
        values = np.array([getattr(one, name) for one in drawn])
        changed = values[values != none]
        assert 0.46 < len(changed) / len(values) < 0.54
        assert low <= changed.min() < low + 0.05 * (high - low)
        assert high - 0.05 * (high - low) < changed.max() <= high
    assert 0.46 < np.mean([one.contrast_first for one in drawn]) < 0.54
    assert pytest.approx((32, 36)) == (BRIGHTNESS * 255, HUE * 360)  # levels, degrees


def test_the_grey_beside_the_image_keeps_its_colour() -> None:
    jitter = Jitter("none", (20, 40), (0, 0), 40)
    picture = jitter.image(np.full((20, 40, 3), 50, np.uint8), ColorJitter(brightness=0.1))
    assert (picture[:, :20] > 60).all()
    assert (picture[:, 20:] == 128).all()


@pytest.fixture
def shapes(tiny_dataset: dict[str, Path]) -> CocoDataset:
    return load_coco("tiny", tiny_dataset["train_annotations"], tiny_dataset["train_images"], ("texture", "color"))


def dataset_of(dataset: CocoDataset, **options: Any) -> TrainDataset:
    return TrainDataset(
        dataset,
        image_size=96,
        min_scale=0.5,
        max_scale=2.0,
        flip="horizontal",
        seed=0,
        filter_empty=True,
        **options,
    )


def test_only_colours_change_and_depend_on_seed_and_position_alone(shapes: CocoDataset) -> None:
    plain, colored = dataset_of(shapes), dataset_of(shapes, color_jitter=True)
    changed = 0
    for ticket in ((0, 0), (3, 5), (3, 7), (1, 12)):
        before, after = plain[ticket], colored[ticket]
        assert before.seed == after.seed
        assert torch.equal(before.target.masks, after.target.masks)
        assert torch.equal(after.image, dataset_of(shapes, color_jitter=True)[ticket].image)
        changed += not torch.equal(before.image, after.image)
    assert changed >= 3
