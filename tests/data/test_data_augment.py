"""Colour jitter is SSD's, of the colours alone; what is pasted keeps its labels and hides what it covers."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from raytune_m2f.data import CocoDataset, Jitter, TrainDataset, load_coco, read_image
from raytune_m2f.data.augment import BRIGHTNESS, HUE, ColorJitter, CopyPaste, paste
from raytune_m2f.model import Target

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
    settings: dict[str, Any] = {"image_size": 96, "min_scale": 0.5, "max_scale": 2.0, "flip": "horizontal"}
    return TrainDataset(dataset, **(settings | {"seed": 0, "filter_empty": True} | options))


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


def target_of(labels: list[int], masks: list[list[list[int]]], color: list[int]) -> Target:
    shape = (len(labels), 2, 3)
    return Target(
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(masks).bool().reshape(shape),
        {"color": torch.tensor(color, dtype=torch.int64)},
    )


def test_what_is_pasted_covers_what_is_there_and_what_it_hides_is_dropped() -> None:
    own = target_of([4, 5], [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]], [0, 1])
    pasted = target_of([6], [[[0, 1, 0], [0, 0, 1]]], [2])
    image, other = torch.full((3, 2, 3), 10, dtype=torch.uint8), torch.full((3, 2, 3), 20, dtype=torch.uint8)
    together, target = paste(image, own, other, pasted)
    assert together[0].tolist() == [[10, 20, 10], [10, 10, 20]]
    assert target.labels.tolist() == [4, 6]
    assert target.sublabels["color"].tolist() == [0, 2]
    assert target.masks.int().tolist() == [[[1, 0, 0], [0, 0, 0]], [[0, 1, 0], [0, 0, 1]]]
    nothing = target_of([], [], [])
    together, target = paste(image, nothing, other, pasted)
    assert len(target) == 1
    assert together[0].sum() == 4 * 10 + 2 * 20


def test_any_number_of_instances_is_as_probable_up_to_the_limit() -> None:
    rng = np.random.default_rng(0)
    for most, limit in ((0, 5), (3, 3), (9, 5)):
        chosen = [CopyPaste(1.0, most).choose(rng, 5) for _ in range(1000)]
        counts = np.bincount([len(one) for one in chosen], minlength=6)
        assert counts[0] == 0
        assert np.flatnonzero(counts).max() == limit
        assert counts[1 : limit + 1].min() > 0.8 * 1000 / limit
        assert all(one == sorted(set(one)) for one in chosen)


@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_pasted_masks_follow_their_pixels(shapes: CocoDataset, flip: str) -> None:
    """Without a resize every pixel is one of the two images', flipped or not: inside a pasted mask the other's."""
    options: dict[str, Any] = {"image_size": 64, "min_scale": 1.0, "max_scale": 1.0, "flip": flip}
    plain = dataset_of(shapes, **options)
    pasting = dataset_of(shapes, **options, copy_paste=CopyPaste(1.0))
    flipped = {"horizontal": (-1,), "vertical": (-2,)}[flip]
    pictures = [plain_image(shapes, index) for index in range(len(plain))]
    grown = 0
    for position in range(2 * len(plain)):
        index = position % len(plain)
        before, after = plain[index, position], pasting[index, position]
        assert before.seed == after.seed
        assert after.target.masks.flatten(1).any(1).all()
        assert len(after.target) == len(after.target.labels) == len(after.target.sublabels["color"])
        changed = (after.image != before.image).any(0)
        covered = torch.zeros_like(changed)
        own = {tuple(mask.flatten().tolist()) for mask in before.target.masks}
        for mask, label in zip(after.target.masks, after.target.labels.tolist(), strict=True):
            if tuple(mask.flatten().tolist()) in own:
                continue
            sources = [
                number
                for number, picture in enumerate(pictures)
                for seen in (picture, picture.flip(flipped))
                if number != index and torch.equal(seen[:, mask], after.image[:, mask])
            ]
            part = [torch.equal(mask & one, mask) for one in before.target.masks]
            assert sources or any(part)  # pasted from another image, or what is left of its own
            covered |= mask
            labels = {a.label for number in sources for a in shapes.records[number].annotations}
            assert label in labels or any(part)
        assert not (changed & ~covered).any()
        grown += len(after.target) > len(before.target)
    assert grown > len(plain)


def plain_image(dataset: CocoDataset, index: int) -> torch.Tensor:
    return torch.from_numpy(read_image(dataset.records[index].file)).permute(2, 0, 1)


def test_what_is_pasted_depends_on_seed_and_position_alone_and_its_probability_holds(shapes: CocoDataset) -> None:
    plain, pasting = dataset_of(shapes), dataset_of(shapes, copy_paste=CopyPaste(0.4, most=1), color_jitter=False)
    changed = [not torch.equal(plain[0, p].image, pasting[0, p].image) for p in range(100)]
    assert 20 < sum(changed) < 45  # some of the 40 are outside the crop
    again = [not torch.equal(plain[0, p].image, pasting[0, p].image) for p in reversed(range(100))]
    assert again[::-1] == changed
    assert all(len(pasting[0, p].target) <= len(plain[0, p].target) + 1 for p in range(30))


def test_a_single_image_is_pasted_into_itself_and_an_empty_one_gets_instances(shapes: CocoDataset) -> None:
    record = shapes.records[0]
    alone = dataset_of(replace(shapes, records=(record,)), copy_paste=CopyPaste(1.0))
    assert sum(len(alone[0, p].target) for p in range(8)) > 0
    empty = replace(record, id=99, annotations=())
    both = dataset_of(replace(shapes, records=(record, empty)), copy_paste=CopyPaste(1.0), filter_empty=False)
    assert any(len(both[1, p].target) for p in range(8))
    none = dataset_of(replace(shapes, records=(empty,)), copy_paste=CopyPaste(1.0), filter_empty=False)
    assert len(none[0, 0].target) == 0
