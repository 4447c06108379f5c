"""Datasets as detectron2's dictionaries, there and back, without detectron2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytune_m2f.data import CocoDataset, load_coco
from raytune_m2f.engines.detectron2.catalog import categories_of, dataset_of, dicts_of, metadata_of
from raytune_m2f.errors import ConfigError, DatasetError


@pytest.fixture
def dataset(tiny_dataset: dict[str, Path]) -> CocoDataset:
    return load_coco("val", tiny_dataset["val_annotations"], tiny_dataset["val_images"], ["color"])


def test_a_dataset_comes_back_as_it_was(dataset: CocoDataset) -> None:
    categories = categories_of("val", metadata_of(dataset), ["color"])
    assert categories == dataset.categories
    again = dataset_of("val", dicts_of(dataset), categories)
    for one, other in zip(dataset.records, again.records, strict=True):
        assert (one.id, one.file, one.width, one.height) == (other.id, other.file, other.width, other.height)
        for a, b in zip(one.annotations, other.annotations, strict=True):
            assert (a.label, a.bbox, a.area, a.iscrowd, a.sublabels) == (
                b.label,
                b.bbox,
                b.area,
                b.iscrowd,
                b.sublabels,
            )
            assert a.rle(one.height, one.width) == b.rle(one.height, one.width)


def test_an_annotation_without_a_mask_has_its_boxs(dataset: CocoDataset) -> None:
    box = {"bbox": [4, 6, 10, 20], "bbox_mode": 1, "category_id": 0}
    entry = {"file_name": "a.png", "image_id": 3, "height": 40, "width": 40, "annotations": [box]}
    ((annotation,),) = (record.annotations for record in dataset_of("a", [entry], dataset.categories).records)
    assert annotation.area == 200
    assert annotation.sublabels == {"color": -1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 9}, "category_id 9 of annotation 1, allowed: 0 to 2"),
        ({"color": 4}, "color 4 of annotation 1, allowed: -1 to 3"),
        ({"segmentation": [[1, 2, 3, 4]]}, "without a polygon of three points"),
        ({"bbox": None}, "not as detectron2's dataset dictionaries are"),
    ],
)
def test_an_entry_that_is_wrong_is_named(dataset: CocoDataset, change: dict[str, Any], message: str) -> None:
    entry = dicts_of(dataset)[0]
    entry["annotations"][0] |= change
    with pytest.raises(DatasetError, match=rf"data set 'val', image .*{message}"):
        dataset_of("val", [entry], dataset.categories)


def test_repeated_images_are_refused(dataset: CocoDataset) -> None:
    entry = dicts_of(dataset)[0]
    with pytest.raises(DatasetError, match="the same image_id"):
        dataset_of("val", [entry, entry], dataset.categories)


def test_names_that_are_missing_are_asked_for(dataset: CocoDataset) -> None:
    with pytest.raises(ConfigError, match="no thing_classes"):
        categories_of("val", {}, [])
    with pytest.raises(ConfigError, match="no class names of texture"):
        categories_of("val", metadata_of(dataset), ["color", "texture"])
