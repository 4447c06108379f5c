"""Samples and their order: they depend on nothing but their place in the stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from raytune_m2f.data import (
    BatchStream,
    CocoDataset,
    StreamSampler,
    TestDataset,
    TrainDataset,
    TrainSample,
    load_coco,
    read_image,
    shard,
)
from raytune_m2f.errors import ConfigError, DatasetError

SIZE = 48


@pytest.fixture
def shapes(tiny_dataset: dict[str, Path]) -> CocoDataset:
    return load_coco("tiny", tiny_dataset["train_annotations"], tiny_dataset["train_images"], ("texture", "color"))


def train_dataset(dataset: CocoDataset, **changes: Any) -> TrainDataset:
    settings: dict[str, Any] = {"image_size": SIZE, "min_scale": 0.5, "max_scale": 2.0, "flip": "horizontal"}
    return TrainDataset(dataset, **(settings | {"seed": 0, "filter_empty": True} | changes))


def same(one: TrainSample, other: TrainSample) -> bool:
    targets = [(s.target.labels, s.target.masks, *s.target.sublabels.values()) for s in (one, other)]
    return one.seed == other.seed and torch.equal(one.image, other.image) and all(map(torch.equal, *targets))


def test_a_sample_at_scale_one_is_the_image(shapes: CocoDataset) -> None:
    record = shapes.records[0]
    sample = train_dataset(shapes, image_size=64, min_scale=1.0, max_scale=1.0, flip="none")[0, 0]
    np.testing.assert_array_equal(sample.image.permute(1, 2, 0), read_image(record.file))
    np.testing.assert_array_equal(sample.target.masks, [a.mask(64, 64) for a in record.annotations])
    assert sample.target.labels.tolist() == [a.label for a in record.annotations]
    assert list(sample.target.sublabels) == ["texture", "color"]
    assert sample.target.sublabels["color"].tolist() == [a.sublabels["color"] for a in record.annotations]
    assert sample.target.sublabels["color"].dtype == sample.target.labels.dtype == torch.int64


def test_instances_outside_the_crop_are_dropped_with_all_their_labels(shapes: CocoDataset) -> None:
    dataset = train_dataset(shapes, min_scale=3.0, max_scale=4.0)
    fewer = 0
    for position in range(40):
        index = position % len(dataset)
        target = dataset[index, position].target
        assert target.masks.flatten(1).any(1).all()
        assert len(target) == len(target.masks) == len(target.sublabels["color"])
        fewer += len(target) < len(dataset.records[index].annotations)
    assert fewer > 5


def test_crowds_are_not_learned_from(shapes: CocoDataset) -> None:
    record = max(shapes.records, key=lambda r: len(r.annotations))
    crowd, *others = record.annotations
    mixed = replace(record, annotations=(replace(crowd, iscrowd=True), *others))
    only_crowd = replace(record, annotations=(replace(crowd, iscrowd=True),))
    dataset = replace(shapes, records=(mixed, only_crowd, replace(record, annotations=())))
    settings: dict[str, Any] = {"min_scale": 1.0, "max_scale": 1.0}
    assert len(train_dataset(dataset, **settings)[0, 0].target) == len(others)
    assert len(train_dataset(dataset)) == 1
    assert len(train_dataset(dataset, filter_empty=False)) == 3
    for index in (1, 2):
        target = train_dataset(dataset, filter_empty=False)[index, 0].target
        assert len(target) == 0
        assert target.masks.shape == (0, SIZE, SIZE)
        assert target.sublabels["color"].dtype == torch.int64
    with pytest.raises(DatasetError, match=r"'tiny' .*train\.json.* no image with an instance"):
        train_dataset(replace(shapes, records=(only_crowd,)))


def test_a_sample_depends_on_seed_and_position_alone(shapes: CocoDataset) -> None:
    dataset = train_dataset(shapes)
    first = dataset[3, 17]
    torch.manual_seed(1)
    np.random.seed(1)  # to show that it does not matter
    dataset[5, 18]
    assert same(dataset[3, 17], first)
    assert not same(dataset[3, 18], first)
    assert not same(train_dataset(shapes, seed=1)[3, 17], first)
    assert len({dataset[0, p].seed for p in range(50)}) == 50


def stream(shapes: CocoDataset, *, start: int = 0, workers: int = 0, world_size: int = 1) -> list[TrainSample]:
    """All samples of iterations `start` to 5 in order of their positions, 6 a batch."""
    dataset = train_dataset(shapes)
    loaders = [
        DataLoader(
            dataset,
            batch_sampler=BatchStream(len(dataset), 0, 6, rank, world_size, start, 5),
            collate_fn=list,
            num_workers=workers,
        )
        for rank in range(world_size)
    ]
    return [sample for batches in zip(*loaders, strict=True) for batch in batches for sample in batch]


def test_the_stream_is_the_same_for_any_split_and_after_a_restart(shapes: CocoDataset) -> None:
    whole = stream(shapes)
    assert len(whole) == 30
    for other in (stream(shapes, world_size=4), stream(shapes, workers=2)):
        assert len(other) == 30
        assert all(map(same, whole, other))
    assert all(map(same, whole[18:], stream(shapes, start=3)))


def test_test_samples(tiny_dataset: dict[str, Path]) -> None:
    dataset = load_coco("tiny", tiny_dataset["val_annotations"], tiny_dataset["val_images"], ())
    samples = TestDataset(dataset, min_size=32, max_size=100)
    assert len(samples) == 6
    sample = samples[2]
    record = dataset.records[2]
    assert (sample.image.shape, sample.image.dtype) == ((3, 32, 32), torch.uint8)
    assert (sample.image_id, sample.height, sample.width, sample.file) == (record.id, 64, 64, record.file)


@pytest.mark.parametrize("name", ["fruits_nuts", "nuclei_dsb", "coco_cc"])
def test_real_data_trains(data_root: Path, name: str) -> None:
    folder = data_root / name
    coco = load_coco(name, folder / "annotations_train.json", folder / "train", ("subcat_1", "subcat_2"))
    dataset = train_dataset(coco, image_size=128, min_scale=0.1)
    for position in range(0, len(dataset), max(1, len(dataset) // 15)):
        target = dataset[position, position].target
        assert target.masks.flatten(1).any(1).all()
        assert all(0 <= label < len(coco.categories) for label in target.labels.tolist())
        for head, size in coco.categories.sizes.items():
            assert all(0 <= label < size for label in target.sublabels[head].tolist())


def test_every_epoch_is_another_permutation() -> None:
    sampler = StreamSampler(50, seed=3)
    epochs = [[sampler.index(p) for p in range(50 * e, 50 * (e + 1))] for e in range(4)]
    assert all(sorted(epoch) == list(range(50)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_index_depends_on_seed_and_position_alone() -> None:
    forward = [StreamSampler(7, 3).index(p) for p in range(30)]
    sampler = StreamSampler(7, 3)
    assert [sampler.index(p) for p in reversed(range(30))] == forward[::-1]
    assert [StreamSampler(7, 4).index(p) for p in range(30)] != forward


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
def test_workers_share_each_batch(world_size: int) -> None:
    whole = list(BatchStream(11, 0, 8, 0, 1, 0, 6))
    assert [p for batch in whole for _, p in batch] == list(range(48))
    parts = [list(BatchStream(11, 0, 8, rank, world_size, 0, 6)) for rank in range(world_size)]
    for iteration, batch in enumerate(whole):
        split = [part[iteration] for part in parts]
        assert [ticket for part in split for ticket in part] == batch
        assert max(map(len, split)) - min(map(len, split)) <= 1


def test_a_restart_goes_on_where_the_run_stopped() -> None:
    whole = BatchStream(11, 0, 8, 1, 2, 0, 6)
    rest = BatchStream(11, 0, 8, 1, 2, 4, 6)
    assert list(rest) == list(whole)[4:]
    assert (len(whole), len(rest)) == (6, 2)
    assert list(BatchStream(11, 0, 8, 1, 2, 6, 6)) == []
    assert list(whole) == list(whole)


def test_a_batch_larger_than_the_dataset() -> None:
    (batch,) = BatchStream(3, 0, 9, 0, 1, 0, 1)
    assert sorted(index for index, _ in batch) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_refuses_what_leaves_a_worker_without_images() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.IMS_PER_BATCH = 2 is less than the 3 workers"):
        BatchStream(11, 0, 2, 0, 3, 0, 6)
    with pytest.raises(DatasetError, match="no image to train on"):
        BatchStream(0, 0, 2, 0, 1, 0, 6)


@pytest.mark.parametrize(("size", "world_size"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_shards_hold_each_image_once(size: int, world_size: int) -> None:
    shards = [shard(size, rank, world_size) for rank in range(world_size)]
    assert sorted(i for part in shards for i in part) == list(range(size))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
