"""What a mapper draws from the global generators is the same every time, and disturbs nobody."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch

from raytune_m2f.data import BatchStream
from raytune_m2f.engines.detectron2.mapped import MappedDataset, MappedTestDataset, SampledBatches
from raytune_m2f.errors import DatasetError

ENTRIES = [{"file_name": f"{number}.png", "n": number} for number in range(5)]


def drawing(entry: dict[str, Any]) -> tuple[Any, ...]:
    entry["spoilt"] = True  # of a copy
    return entry["n"], random.random(), np.random.rand(), torch.rand(()).item()


def together(mapped: Any, other: Any) -> Any:
    return (*mapped, other)


def test_a_sample_depends_on_seed_and_position_alone() -> None:
    dataset = MappedDataset(ENTRIES, drawing, together, seed=3)
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
    assert MappedDataset(ENTRIES, drawing, together, seed=4)[2, 7][1:] != first[1:]
    assert "spoilt" not in ENTRIES[2]


def test_where_a_mapper_gives_nothing_the_next_image_is_taken() -> None:
    def third(entry: dict[str, Any]) -> tuple[int] | None:
        return (entry["n"],) if entry["n"] == 3 else None

    assert MappedDataset(ENTRIES, third, together, seed=0)[4, 0][0] == 3
    with pytest.raises(DatasetError, match="refuses every training image"):
        MappedDataset(ENTRIES, lambda entry: None, together, seed=0)[4, 0]


def test_an_image_that_cannot_be_mapped_is_named() -> None:
    with pytest.raises(DatasetError, match=r"image 1\.png cannot be mapped: KeyError: 'height'"):
        MappedTestDataset(ENTRIES, lambda entry: entry["height"], together)[1]


def test_batches_take_a_samplers_indices_by_position() -> None:
    def tickets(rank: int, world_size: int, start: int) -> list[list[tuple[int, int]]]:
        stream = BatchStream(
            size=5, seed=0, global_batch=3, rank=rank, world_size=world_size, start_iteration=start, max_iterations=4
        )
        return list(SampledBatches(stream, lambda: (10 * i for i in itertools.count())))

    whole = tickets(0, 1, 0)
    assert whole[1] == [(30, 3), (40, 4), (50, 5)]
    assert [a + b for a, b in zip(tickets(0, 2, 0), tickets(1, 2, 0), strict=True)] == whole
    assert tickets(0, 1, 2) == whole[2:]
