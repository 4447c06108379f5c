"""What the workers of a trial tell each other; with one worker, nothing."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def all_reduce_sum(tensor: Tensor, device: torch.device) -> Tensor:
    """The sum of `tensor` over all workers, on the CPU. NCCL can only add what lies on its GPU, hence `device`."""
    if not dist.is_initialized():
        return tensor
    moved = tensor.to(device)
    dist.all_reduce(moved)
    return moved.cpu()


def share_buffers(network: nn.Module) -> None:
    """Give all workers rank 0's statistics of batch norm; since the last step each has those of its own images."""
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.broadcast(buffer, src=0)


def all_gather(items: list[Any]) -> list[list[Any]]:
    """The lists of all workers, on every worker."""
    gathered: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, items)
    return gathered
