"""Augmentation and resizing: image and masks stay aligned, sizes are detectron2's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raytune_m2f.data import Jitter, resize_shortest_edge, shortest_edge_size

Array = np.ndarray[Any, np.dtype[np.uint8]]


def blocks(height: int, width: int) -> tuple[Array, Array]:
    """An image of six coloured blocks and a mask of each: together they cover the image."""
    image = np.zeros((height, width, 3), np.uint8)
    masks = np.zeros((6, height, width), np.uint8)
    for i in range(6):
        place = np.s_[i % 2 * height // 2 : (i % 2 + 1) * height // 2, i // 2 * width // 3 : (i // 2 + 1) * width // 3]
        masks[i][place] = 1
        image[place] = (40 * i, 200 - 40 * i, 10 if i % 2 else 220)
    return image, masks


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
@pytest.mark.parametrize("shape", [(60, 90), (90, 61), (33, 200)])
def test_masks_follow_the_image(flip: Any, shape: tuple[int, int]) -> None:
    image, masks = blocks(*shape)
    rng = np.random.default_rng(3)
    for _ in range(20):
        jitter = Jitter.draw(rng, *shape, image_size=64, min_scale=0.4, max_scale=2.0, flip=flip)
        picture, moved = jitter.image(image), jitter.masks(masks)
        assert (picture.shape, picture.dtype) == ((3, 64, 64), torch.uint8)
        assert (moved.shape, moved.dtype) == ((6, 64, 64), torch.bool)
        padding = ~moved.any(0)
        assert (picture[:, padding] == 128).all()
        height, width = (min(64, side) for side in jitter.resized)
        assert not padding[:height, :width].any()
        assert padding.sum() == 64 * 64 - height * width
        for i, mask in enumerate(moved):
            color = torch.from_numpy(image[masks[i].astype(bool)][0])
            off = (picture[:, mask].int() - color[:, None].int()).abs().amax(0) > 8
            assert off.sum() <= 4 * (height + width)  # nothing but the blended seams between blocks


@pytest.mark.parametrize("size", [(37, 54), (200, 302), (90, 62), (1, 1)])
def test_masks_are_resized_as_pil_does(size: tuple[int, int]) -> None:
    masks = np.random.default_rng(0).integers(0, 2, (3, 61, 90), np.uint8)
    moved = Jitter("none", size, (0, 0), 320).masks(masks)
    for mask, ours in zip(masks, moved, strict=True):
        # Of sizes without ties: where a pixel centre falls on an edge, PIL takes what its sums happen to give.
        theirs = Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(ours[: size[0], : size[1]], np.asarray(theirs))


@pytest.mark.parametrize("size", [(37, 53), (200, 301)])
def test_images_are_resized_as_pil_does(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (61, 90, 3), np.uint8)
    ours = Jitter("none", size, (0, 0), 320).image(image)[:, : size[0], : size[1]].permute(1, 2, 0).int().numpy()
    theirs = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
    assert abs(ours - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize(("flip", "axis"), [("horizontal", 1), ("vertical", 0)])
def test_flip_comes_before_the_crop(flip: Any, axis: int) -> None:
    image, masks = blocks(60, 90)
    flipped, plain = Jitter(flip, (120, 180), (30, 50), 64), Jitter("none", (120, 180), (30, 50), 64)
    assert torch.equal(flipped.masks(masks), plain.masks(np.flip(masks, axis + 1).copy()))
    assert torch.equal(flipped.image(image), plain.image(np.flip(image, axis).copy()))


def test_geometry_is_that_of_resize_scale_and_fixed_size_crop() -> None:
    rng, again = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(200):
        jitter = Jitter.draw(rng, 427, 640, image_size=1024, min_scale=0.1, max_scale=2.0, flip="horizontal")
        flipped, scale, shift = again.random() < 0.5, again.uniform(0.1, 2.0), again.random()
        # detectron2: augmentation_impl.py, ResizeScale._get_resize and FixedSizeCrop._get_crop
        factor = np.minimum(1024 * scale / 427, 1024 * scale / 640)
        resized = np.round(np.multiply((427, 640), factor)).astype(int)
        offset = np.round(np.maximum(resized - 1024, 0) * shift).astype(int)
        assert jitter == Jitter("horizontal" if flipped else "none", tuple(resized), tuple(offset), 1024)


def test_draws_cover_the_range() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        Jitter.draw(rng, 50, 50, image_size=100, min_scale=0.5, max_scale=1.5, flip="vertical") for _ in range(400)
    ]
    scales = [j.resized[0] / 100 for j in drawn]
    assert 0.5 <= min(scales) < 0.52
    assert 1.48 < max(scales) <= 1.5
    assert {j.flip for j in drawn} == {"none", "vertical"}
    assert 0.4 < sum(j.flip == "none" for j in drawn) / 400 < 0.6
    assert not any(j.offset[0] for j in drawn if j.resized[0] <= 100)


def test_a_sliver_keeps_one_pixel() -> None:
    jitter = Jitter.draw(np.random.default_rng(0), 1, 500, image_size=50, min_scale=0.1, max_scale=0.1, flip="none")
    assert jitter.resized == (1, 5)
    assert jitter.masks(np.ones((2, 1, 500), np.uint8)).sum() == 10


def test_no_masks() -> None:
    assert Jitter("none", (20, 30), (0, 0), 64).masks(np.zeros((0, 40, 60), np.uint8)).shape == (0, 64, 64)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),
        (640, 480, (1067, 800)),
        (427, 640, (800, 1199)),
        (500, 500, (800, 800)),
        (300, 1000, (400, 1333)),
        (1000, 300, (1333, 400)),
        (1, 5000, (1, 1333)),
    ],
)
def test_shortest_edge(height: int, width: int, expected: tuple[int, int]) -> None:
    assert shortest_edge_size(height, width, 800, 1333) == expected


def test_test_image_is_resized_as_pil_does() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    resized = resize_shortest_edge(image, 20, 100)
    theirs = np.asarray(Image.fromarray(image).resize((30, 20), Image.Resampling.BILINEAR))
    assert abs(resized.permute(1, 2, 0).int().numpy() - theirs.astype(int)).max() <= 1
    assert resized.is_contiguous()
    np.testing.assert_array_equal(resize_shortest_edge(image, 0, 10).permute(1, 2, 0), image)
