"""The stream of images: epochs, batches, shards."""

from __future__ import annotations

import pytest

from raytune_m2f.data import BatchStream, StreamSampler, shard
from raytune_m2f.errors import ConfigError, DatasetError


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
