"""Datasets as detectron2's dictionaries, there and back, and mapped the same every time, without detectron2."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raytune_m2f.data import BatchStream, CocoDataset, load_coco
from raytune_m2f.engines.detectron2.catalog import (
    MappedTest,
    MappedTraining,
    categories_of,
    dataset_of,
    entries_of,
    metadata_of,
    sampled_batches,
)
from raytune_m2f.errors import ConfigError, DatasetError


@pytest.fixture
def dataset(tiny_dataset: dict[str, Path]) -> CocoDataset:
    return load_coco("val", tiny_dataset["val_annotations"], tiny_dataset["val_images"], ["color"])


def test_a_dataset_comes_back_as_it_was(dataset: CocoDataset) -> None:
    categories = categories_of("val", metadata_of(dataset), ["color"])
    assert categories == dataset.categories
    again = dataset_of("val", entries_of(dataset), categories)
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
    entry = entries_of(dataset)[0]
    entry["annotations"][0] |= change
    with pytest.raises(DatasetError, match=rf"data set 'val', image .*{message}"):
        dataset_of("val", [entry], dataset.categories)


def test_repeated_images_are_refused(dataset: CocoDataset) -> None:
    entry = entries_of(dataset)[0]
    with pytest.raises(DatasetError, match="the same image_id"):
        dataset_of("val", [entry, entry], dataset.categories)


def test_names_that_are_missing_are_asked_for(dataset: CocoDataset) -> None:
    with pytest.raises(ConfigError, match="no thing_classes"):
        categories_of("val", {}, [])
    with pytest.raises(ConfigError, match="no class names of texture"):
        categories_of("val", metadata_of(dataset), ["color", "texture"])


ENTRIES = [{"file_name": f"{number}.png", "n": number} for number in range(5)]


def drawing(entry: dict[str, Any]) -> tuple[Any, ...]:
    entry["spoilt"] = True  # of a copy
    return entry["n"], random.random(), np.random.rand(), torch.rand(()).item()


def together(mapped: Any, other: Any) -> Any:
    return (*mapped, other)


def test_a_sample_depends_on_seed_and_position_alone() -> None:
    dataset = MappedTraining(ENTRIES, drawing, together, seed=3)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(()).item()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first = dataset[2, 7]
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected
    assert dataset[2, 7] == first
    assert dataset[2, 8][1:] != first[1:]
    assert MappedTraining(ENTRIES, drawing, together, seed=4)[2, 7][1:] != first[1:]
    assert "spoilt" not in ENTRIES[2]


def test_the_first_positions_have_their_own_mapper() -> None:
    def smaller(entry: dict[str, Any]) -> tuple[str, int]:
        return "smaller", entry["n"]

    dataset = MappedTraining(ENTRIES, drawing, together, seed=3, start=(6, smaller))
    assert [dataset[2, position][0] for position in (0, 5, 6, 7)] == ["smaller", "smaller", 2, 2]
    assert dataset[2, 7] == MappedTraining(ENTRIES, drawing, together, seed=3)[2, 7]


def test_where_a_mapper_gives_nothing_the_next_image_is_taken() -> None:
    def third(entry: dict[str, Any]) -> tuple[int] | None:
        return (entry["n"],) if entry["n"] == 3 else None

    assert MappedTraining(ENTRIES, third, together, seed=0)[4, 0][0] == 3
    with pytest.raises(DatasetError, match="refuses every training image"):
        MappedTraining(ENTRIES, lambda entry: None, together, seed=0)[4, 0]


def test_an_image_that_cannot_be_mapped_is_named() -> None:
    with pytest.raises(DatasetError, match=r"image 1\.png cannot be mapped: KeyError: 'height'"):
        MappedTest(ENTRIES, lambda entry: entry["height"], together)[1]


def test_batches_take_a_samplers_indices_by_position() -> None:
    def tickets(rank: int, world_size: int, start: int) -> list[list[tuple[int, int]]]:
        stream = BatchStream(
            size=5, seed=0, global_batch=3, rank=rank, world_size=world_size, start_iteration=start, max_iterations=4
        )
        return list(sampled_batches(stream, (10 * i for i in itertools.count())))

    whole = tickets(0, 1, 0)
    assert whole[1] == [(30, 3), (40, 4), (50, 5)]
    assert [a + b for a, b in zip(tickets(0, 2, 0), tickets(1, 2, 0), strict=True)] == whole
    assert tickets(0, 1, 2) == whole[2:]
