"""What workers tell each other, over gloo in two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import spawn

from raytune_m2f.training.step import all_gather, all_reduce_sum, share_buffers

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def talk(rank: int, folder: str) -> None:
    """Of one process."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    norm = nn.BatchNorm1d(3)
    assert norm.running_mean is not None
    norm.running_mean.fill_(rank + 1)
    share_buffers(norm)
    assert torch.equal(norm.running_mean, torch.ones(3))
    assert all_gather([rank]) == [[0], [1]]
    assert all_reduce_sum(torch.tensor([1.0 + rank]), torch.device("cpu")).item() == 3
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path) -> None:
    spawn(talk, args=(str(tmp_path),), nprocs=2)
