"""What workers tell each other, over gloo in two processes."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from raytune_m2f.model import EfficientNetLite
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


def learn(rank: int, folder: str) -> None:
    """Of one process: two steps of a backbone with frozen stages, on its half of the images."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")  # of DDP, of gradients in another layout
    warnings.simplefilter("ignore", FutureWarning)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    network = DistributedDataParallel(frozen_backbone())
    for _ in range(2):  # an unused parameter would be told in the second
        network.zero_grad(set_to_none=True)
        loss_of(network, images()[2 * rank : 2 * rank + 2]).backward()
    whole = frozen_backbone()
    loss_of(whole, images()).backward()
    for ours, wanted in zip(network.module.parameters(), whole.parameters(), strict=True):
        assert (ours.grad is None) == (wanted.grad is None) == (not ours.requires_grad)
        if ours.grad is not None and wanted.grad is not None:
            torch.testing.assert_close(ours.grad, wanted.grad, atol=1e-5, rtol=1e-3)
    dist.destroy_process_group()


def frozen_backbone() -> EfficientNetLite:
    torch.manual_seed(0)
    backbone = EfficientNetLite(0, "FrozenStatsBN")
    backbone.freeze(2)
    return backbone.train()


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def loss_of(network: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([level.square().mean() for level in network(x).values() if level.requires_grad]).sum()


@pytest.mark.slow
def test_frozen_stages_learn_in_two_processes_as_in_one(tmp_path: Path) -> None:
    spawn(learn, args=(str(tmp_path),), nprocs=2)


@pytest.mark.slow
def test_two_processes_agree(tmp_path: Path) -> None:
    spawn(talk, args=(str(tmp_path),), nprocs=2)
