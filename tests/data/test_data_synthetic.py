"""Synthetic shapes: masks are the painted pixels, labels are true, files repeat."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from raytune_m2f.data import CocoDataset, generate_shapes, load_coco, read_image
from raytune_m2f.data.synthetic import COLORS, MIN_VISIBLE_AREA, SHAPES, TEXTURES, Shape, paint_scene


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> CocoDataset:
    paths = generate_shapes(tmp_path_factory.mktemp("shapes"), train_images=60, val_images=1)
    return load_coco("shapes", paths["train_annotations"], paths["train_images"], ("color", "texture"))


def test_same_seed_same_files(tmp_path: Path) -> None:
    files = []
    for name, seed in (("one", 4), ("two", 4), ("three", 5)):
        generate_shapes(tmp_path / name, train_images=3, val_images=2, seed=seed)
        files.append({f.relative_to(tmp_path / name): f.read_bytes() for f in (tmp_path / name).rglob("*.*")})
    assert len(files[0]) == 3 + 2 + 2
    assert files[0] == files[1] != files[2]


def test_train_and_val_differ(tmp_path: Path) -> None:
    paths = generate_shapes(tmp_path, train_images=2, val_images=2)
    train, val = ((paths[f"{split}_images"] / "00001.png").read_bytes() for split in ("train", "val"))
    assert train != val


def test_masks_are_exactly_the_painted_pixels(shapes: CocoDataset) -> None:
    for record in shapes.records:
        picture = read_image(record.file).astype(int)
        # the background is a pale grey; shapes are coloured, or dark where their texture is
        colorful = (picture.max(-1) - picture.min(-1) > 30) | (picture.max(-1) < 120)
        masks = [a.mask(record.height, record.width) for a in record.annotations]
        np.testing.assert_array_equal(colorful, np.any(masks, axis=0))
        assert np.sum(masks, axis=0).max() == 1


def test_colour_labels_are_true(shapes: CocoDataset) -> None:
    palette = np.array(list(COLORS.values()), float)
    directions = palette / np.linalg.norm(palette, axis=1, keepdims=True)
    for record in shapes.records:
        picture = read_image(record.file).astype(float)
        for annotation in record.annotations:
            color = picture[annotation.mask(record.height, record.width)].mean(0)
            assert (directions @ color).argmax() == annotation.sublabels["color"]


def test_area_box_and_visibility(shapes: CocoDataset) -> None:
    for record in shapes.records:
        assert 1 <= len(record.annotations) <= 5
        for annotation in record.annotations:
            mask = annotation.mask(record.height, record.width)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation.bbox
            assert annotation.area == mask.sum() >= MIN_VISIBLE_AREA
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def test_every_class_occurs_with_every_other(shapes: CocoDataset) -> None:
    seen = {(a.label, a.sublabels["color"], a.sublabels["texture"]) for r in shapes.records for a in r.annotations}
    assert shapes.categories.names == SHAPES
    assert shapes.categories.subcategories == {"color": tuple(COLORS), "texture": TEXTURES}
    assert len(seen) > 0.9 * len(SHAPES) * len(COLORS) * len(TEXTURES)


def test_later_shapes_hide_earlier_ones() -> None:
    below = Shape(shape=0, color=0, texture=0, x=48, y=48, radius=15, tilt=0)
    above = Shape(shape=1, color=2, texture=0, x=56, y=48, radius=15, tilt=0)
    _, (half, full), painted = paint_scene([below, above], 96, np.random.default_rng(0))
    assert painted == [below, above]
    np.testing.assert_array_equal(full, above.mask(96))
    np.testing.assert_array_equal(half, below.mask(96) & ~above.mask(96))


def test_a_hidden_shape_is_left_out() -> None:
    below = Shape(shape=0, color=0, texture=0, x=48, y=48, radius=10, tilt=0)
    above = Shape(shape=0, color=2, texture=0, x=48, y=48, radius=20, tilt=0)
    _, masks, painted = paint_scene([below, above], 96, np.random.default_rng(0))
    assert painted == [above]
    assert len(masks) == 1


def test_textures_differ_to_the_eye() -> None:
    pictures = []
    for texture in range(len(TEXTURES)):
        shape = Shape(shape=0, color=1, texture=texture, x=48, y=48, radius=10, tilt=0.3)
        picture, (mask,), _ = paint_scene([shape], 96, np.random.default_rng(0))
        pictures.append(picture[mask].astype(int))
    for one, other in itertools.combinations(pictures, 2):
        assert (abs(one - other).max(-1) > 50).mean() > 0.15


def test_file_names_and_ids(tmp_path: Path) -> None:
    paths = generate_shapes(tmp_path, train_images=2, val_images=1, image_size=32, max_instances=2)
    content = json.loads(paths["train_annotations"].read_text())
    assert paths["train_annotations"] == tmp_path / "train.json"
    assert [i["file_name"] for i in content["images"]] == ["00001.png", "00002.png"]
    assert [a["id"] for a in content["annotations"]] == list(range(1, len(content["annotations"]) + 1))
    assert isinstance(content["annotations"][0]["segmentation"]["counts"], str)
    assert read_image(paths["val_images"] / "00001.png").shape == (32, 32, 3)
