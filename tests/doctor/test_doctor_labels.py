"""Faults of annotation files, each put into a copy of a sound one, and named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from faults import Change, Content, changed, found, named, sound_config, the_one
from pycocotools import mask as mask_utils

from raytune_m2f.config import load_config
from raytune_m2f.data import generate_shapes, load_coco
from raytune_m2f.doctor import labels
from raytune_m2f.doctor.examine import examine
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import MissingDependencyError

Dataset = dict[str, Path]


def test_sound_data_have_no_warning_and_their_figures(tiny_dataset: Dataset) -> None:
    findings = list(examine(Subject(sound_config(tiny_dataset)), named("data/")))
    assert {finding.level for finding in findings} == {"ok"}
    texts = {finding.check: finding.figure for finding in findings}
    assert texts["data/labels"].startswith("labels in range: color ")
    assert texts["data/categories"].startswith("3 categories, ")
    assert "(all)" in texts["data/instances"]
    assert "NUM_OBJECT_QUERIES 20" in texts["data/instances"]


def unlabel(content: Content) -> None:
    for annotation in content["annotations"][1:]:
        annotation["color"] = None


def never_yellow(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["color"] = min(annotation["color"], 2)


def all_green(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["color"] = 1


def one_yellow(content: Content) -> None:
    never_yellow(content)
    content["annotations"][0]["color"] = 3


def out_of_range(content: Content) -> None:
    content["annotations"][0]["color"] = 4


def without_ring(content: Content) -> None:
    (ring,) = (category["id"] for category in content["categories"] if category["name"] == "ring")
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] != ring]


def one_ring(content: Content) -> None:
    (ring,) = (category["id"] for category in content["categories"] if category["name"] == "ring")
    rings = [a for a in content["annotations"] if a["category_id"] == ring]
    content["annotations"] = [a for a in content["annotations"] if a not in rings[1:]]


def with_star(content: Content) -> None:
    content["categories"].append({"id": 99, "name": "star"})


def yellow_twice(content: Content) -> None:
    content["subcategories"]["color"][0] = "YELLOW "


def ring_twice(content: Content) -> None:
    content["categories"][0]["name"] = "Ring"


def of_polygon(points: list[float]) -> Change:
    """The first annotation is this outline, with a box that fits."""

    def change(content: Content) -> None:
        annotation = content["annotations"][0]
        x, y = points[::2], points[1::2]
        annotation["segmentation"] = [points]
        annotation["bbox"] = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
        annotation.pop("area", None)

    return change


def tiny_objects(content: Content) -> None:
    for number, annotation in enumerate(content["annotations"]):
        left = 5 + number % 40
        annotation["segmentation"] = [[left, 5, left + 2, 5, left + 2, 7, left, 7]]
        annotation["bbox"] = [left, 5, 2, 2]
        annotation["area"] = 4


def normalised(content: Content) -> None:
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        annotation["segmentation"] = [[value / 64 for value in corners]]


def crowds(content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def twice(content: Content) -> None:
    content["annotations"].append({**content["annotations"][3], "id": 10_000})


def same_id(content: Content) -> None:
    content["annotations"].append(content["annotations"][3])


def same_file(content: Content) -> None:
    content["images"][1]["file_name"] = content["images"][0]["file_name"]


BOW_TIE = [8.0, 8, 40, 40, 40, 8, 8, 40]
TWICE_ROUND = [8.0, 8, 40, 8, 40, 40, 8, 40] * 2


@pytest.mark.parametrize(
    ("change", "parts", "check", "level", "text"),
    [
        (unlabel, "train", "data/labels", "warning", "training instances have no label"),
        (never_yellow, "train", "data/labels", "warning", "color: classes without a training instance yellow (1 of 4)"),
        (all_green, "train", "data/labels", "warning", "training labels are 'green'"),
        (one_yellow, "train", "data/labels", "warning", "color: classes with hardly any yellow 1 (1 of 4)"),
        (out_of_range, "train", "data/read", "problem", "color = 4, allowed is an integer from 0 to 3"),
        (without_ring, "train", "data/categories", "warning", "1 of 3 categories are in the test set only: ring ("),
        (one_ring, "train", "data/categories", "warning", "have hardly a training instance: ring 1"),
        (
            yellow_twice,
            "train val",
            "data/labels",
            "warning",
            "classes whose names hardly differ: 'YELLOW ' and 'yellow'",
        ),
        (ring_twice, "train val", "data/categories", "warning", "categories whose names hardly differ: "),
        (with_star, "train val", "data/categories", "warning", "have no instance at all: star"),
        (of_polygon([70.0, 8, 90, 8, 90, 30]), "train", "data/masks", "warning", "have no pixel in their image"),
        (of_polygon([50.0, 8, 90, 8, 90, 30, 50, 30]), "train", "data/masks", "warning", "reach out of their image"),
        (of_polygon(BOW_TIE), "train", "data/masks", "warning", "an outline that crosses itself"),
        (of_polygon(TWICE_ROUND), "val", "data/masks", "warning", "an outline that crosses itself"),
        (tiny_objects, "train", "data/masks", "warning", "are less than 4 x 4 pixels in the network"),
        (normalised, "train", "data/masks", "problem", "the polygons are in 0 to 1"),
        (crowds, "train", "data/crowds", "warning", "are crowds (iscrowd 1)"),
        (twice, "train", "data/ids", "warning", "1 pair of annotations is one object drawn twice"),
        (twice, "val", "data/ids", "warning", "test: 1 pair of annotations is one object drawn twice"),
        (same_id, "train", "data/read", "problem", "the id is given twice"),
        (same_file, "train", "data/ids", "warning", "files are named by several images"),
        (crowds, "train", "data/instances", "problem", "nothing to learn"),
        (crowds, "val", "data/instances", "problem", "nothing to find"),
    ],
)
def test_a_fault_is_named(
    tiny_dataset: Dataset, tmp_path: Path, change: Change, parts: str, check: str, level: str, text: str
) -> None:
    config = sound_config(changed(tiny_dataset, tmp_path, change, *parts.split()))
    matching = [finding for finding in found(config, "data/") if finding.check == check]
    assert [finding.level for finding in matching] == [level] * len(matching)
    assert any(text in finding.figure for finding in matching), [finding.figure for finding in matching]
    assert all(finding.remedy for finding in matching)


def test_unlabelled_heads_are_told_where_none_is_chosen(tiny_dataset: Dataset) -> None:
    finding = the_one(sound_config(tiny_dataset, DATASETS__SUBCATEGORIES=[]), "data/fields")
    assert "labels of color, texture" in finding.figure
    assert "DATASETS.SUBCATEGORIES=[color,texture]" in finding.remedy


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("MODEL__MASK_FORMER__NUM_OBJECT_QUERIES", "an image has 4 instances, but MODEL.MASK_FORMER.NUM_OBJECT_QU"),
        ("TEST__DETECTIONS_PER_IMAGE", "an image has 4 instances, but TEST.DETECTIONS_PER_IMAGE is 2"),
    ],
)
def test_what_is_too_few_for_the_fullest_image_is_told(tiny_dataset: Dataset, key: str, text: str) -> None:
    assert text in the_one(sound_config(tiny_dataset, **{key: 2}), "data/instances").figure


def test_queries_are_too_few_for_the_fullest_test_image_but_in_tiles(tiny_dataset: Dataset, tmp_path: Path) -> None:
    def one_an_image(content: Content) -> None:
        kept = {a["image_id"]: a for a in content["annotations"]}
        content["annotations"] = list(kept.values())

    dataset = changed(tiny_dataset, tmp_path, one_an_image, "train")
    queries = {"MODEL__MASK_FORMER__NUM_OBJECT_QUERIES": 2}
    assert "an image has " in the_one(sound_config(dataset, **queries), "data/instances").figure
    assert not found(sound_config(dataset, **queries, TEST__TILES__ENABLED=True), "data/instances")


def test_objects_in_the_same_place_are_not_the_same(tiny_dataset: Dataset, tmp_path: Path) -> None:
    """One box, two masks: hotcoco compares boxes, the masks decide; another category is another object."""

    def triangles(content: Content) -> None:
        first = content["annotations"][0]
        upper, lower = [8.0, 8, 40, 8, 8, 40], [40.0, 8, 40, 40, 8, 40]
        shape = {"bbox": [8, 8, 32, 32], "area": 512}
        first.update(shape, segmentation=[upper])
        content["annotations"].append({**first, "id": 10_000, "segmentation": [lower]})
        other = next(c["id"] for c in content["categories"] if c["id"] != first["category_id"])
        content["annotations"].append({**first, "id": 10_001, "category_id": other})

    assert not found(sound_config(changed(tiny_dataset, tmp_path, triangles, "train")), "data/ids")


def test_objects_drawn_twice_are_found_without_hotcoco_and_where_it_does_not_look(
    tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(content: Content) -> None:
        first = content["annotations"][0]
        for number in range(120):  # more than hotcoco compares
            x, y = 5 * (number % 12), 5 * (number // 12)
            square = [x, y, x + 4, y, x + 4, y + 4, x, y + 4]
            box = {"segmentation": [square], "bbox": [x, y, 4, 4], "area": 16, "id": 1000 + number}
            content["annotations"].append({**first, **box})
        content["annotations"].append({**content["annotations"][-1], "id": 2000})

    dataset = changed(tiny_dataset, tmp_path, crowded, "train")
    read = load_coco("t", dataset["train_annotations"], dataset["train_images"])
    assert labels._drawn_twice(read) == [(1119, 2000)]

    def missing(name: str) -> None:
        raise MissingDependencyError(name)

    monkeypatch.setattr(labels, "require_evaluator", missing)
    assert labels._drawn_twice(read) == [(1119, 2000)]


@pytest.mark.parametrize("corners", [3, 4, 7, 40])
def test_outlines_that_do_not_cross_themselves_are_not_called_crossed(corners: int) -> None:
    """Stars and thin ones too, in any direction, of any size."""
    rng = np.random.default_rng(corners)
    for size in (2, 5, 20, 100):
        for _ in range(50):
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))[:: rng.choice([-1, 1])]
            radii = size * rng.uniform(0.1, 1, corners)
            points = 110 + np.stack([np.cos(angles) * radii, 0.3 * np.sin(angles) * radii], 1)
            polygon = points.ravel().tolist()
            filled = float(mask_utils.area(mask_utils.frPyObjects([polygon], 220, 220))[0])
            assert not labels._is_crossed(polygon, filled, 220, 220)


@pytest.mark.parametrize("name", ["fruits_nuts", "nuclei_dsb"])
def test_real_sets_with_their_configurations_have_no_warning(data_root: Path, name: str) -> None:
    assert not found(load_config(name), "data/")
    assert not found(load_config(name), "configuration/")
    assert not found(load_config(name), "evaluator/")


def test_a_real_set_of_photographs_has_no_warning(data_root: Path) -> None:
    folder = data_root / "coco_cc"
    dataset = {f"{part}_annotations": folder / f"annotations_{part}.json" for part in ("train", "val")}
    dataset |= {f"{part}_images": folder / part for part in ("train", "val")}
    config = sound_config(dataset, DATASETS__SUBCATEGORIES=["subcat_2"], MODEL__MASK_FORMER__NUM_OBJECT_QUERIES=50)
    assert not found(config, "data/labels")
    assert {f.check for f in found(config, "data/")} == {"data/masks"}  # at demo.yaml's 64 pixels
    assert not found(config.with_values({"INPUT.MIN_SIZE_TEST": 320, "INPUT.MAX_SIZE_TEST": 320}), "data/")
    classes = the_one(config.with_values({"DATASETS.SUBCATEGORIES": ["subcat_1"]}), "data/labels")
    assert "subcat_1: classes without a training instance train, " in classes.figure  # which is true


def test_findings_are_json(tiny_dataset: Dataset, tmp_path: Path) -> None:
    config = sound_config(changed(tiny_dataset, tmp_path, tiny_objects, "train"))
    for finding in examine(Subject(config), named("data/")):
        json.dumps(finding.to_dict())


def test_of_a_large_file_some_images_are_compared_and_rasterised(
    tiny_dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labels, "COMPARED", 10)
    monkeypatch.setattr(labels, "MASKS", 7)
    texts = {f.check: f.figure for f in examine(Subject(sound_config(tiny_dataset)), named("data/"))}
    assert re.search(r"train \d+ annotations of \d images \(of 12\); test ", texts["data/ids"])
    assert texts["data/masks"].startswith("14 of ")


def test_labels_that_mean_something_else_in_the_test_set_are_named(tmp_path: Path) -> None:
    """Red in one file is another number in the other: no label is out of range."""
    dataset = generate_shapes(tmp_path / "sound", train_images=60, val_images=60)

    def mostly(number: int) -> Change:
        def change(content: Content) -> None:
            for place, annotation in enumerate(content["annotations"]):
                annotation["texture"] = number if place % 3 else 1 - number

        return change

    data = changed(dataset, tmp_path / "train", mostly(0), "train")
    assert not found(sound_config(changed(data, tmp_path / "same", mostly(0), "val")), "data/shares")
    finding = the_one(sound_config(changed(data, tmp_path / "other", mostly(1), "val")), "data/shares")
    assert finding.figure.startswith("texture: the classes are not as frequent in the training set as in the test set")
    assert "plain 66% and 34%" in finding.figure
    assert "dotted" not in finding.figure


def test_a_head_may_be_called_category(tmp_path: Path) -> None:
    """Its shares are its own, not those of the main category."""
    dataset = generate_shapes(tmp_path / "sound", train_images=30, val_images=30)

    def renamed(content: Content) -> None:
        content["subcategories"]["category"] = content["subcategories"].pop("color")
        for annotation in content["annotations"]:
            annotation["category"] = annotation.pop("color")

    data = changed(dataset, tmp_path / "named", renamed, "train", "val")
    config = sound_config(data, DATASETS__SUBCATEGORIES=["category", "texture"])
    (finding,) = examine(Subject(config), named("data/shares"))
    assert finding.level == "ok"
    assert {head: len(shares["train"]) for head, shares in finding.values.items()} == {
        "class": 3,
        "category": 4,
        "texture": 3,
    }


def test_sets_of_few_images_have_no_shares_to_compare(tiny_dataset: Dataset, tmp_path: Path) -> None:
    assert not found(sound_config(tiny_dataset), "data/shares")
