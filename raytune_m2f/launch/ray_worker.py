"""One of a trial's Ray Train workers: `train_trial` with its rank, and what it says over the bridge."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist

from raytune_m2f.config import Config
from raytune_m2f.errors import RaytuneM2FError
from raytune_m2f.launch.groups import GROUP, note_group
from raytune_m2f.launch.nodes import Announcement, is_lost, own_node
from raytune_m2f.progress import ProgressFile
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.training.memory import StartAgain, share_gpu
from raytune_m2f.training.reports import Report, TrialContext
from raytune_m2f.training.step import all_gather
from raytune_m2f.training.trial_dir import occupied, pull_trial, push_trial


def run_worker(loop: dict[str, Any]) -> None:
    """`train_trial` with this worker's rank.

    Args:
        loop: config, output_dir, gpus (of each worker), threads, bridge, metric, keep, function, store; see
            `ray_train.train_on_ray`.
    """
    ranks = ray.train.get_context()
    rank = ranks.get_world_rank()
    device = ray.train.torch.get_device() if loop["gpus"] else torch.device("cpu")
    mirror = Mirror.at(loop["store"]) if loop["store"] else None
    output_dir = mirror.folder if mirror else Path(loop["output_dir"])
    if rank == 0 and note_group(output_dir) and mirror:
        mirror.push(GROUP)
    torch.set_num_threads(loop["threads"])
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where NCCL gathers what is no tensor
    share_gpu(device, loop["gpus"])
    size, metric, keep = ranks.get_world_size(), loop["metric"], loop["keep"]
    told = ProgressFile(output_dir)
    context = TrialContext(output_dir, rank, size, device, metric=metric, keep=keep, mirror=mirror, progress=told)
    with occupied(output_dir, rank, mirror=mirror):
        nodes = [node for [node] in all_gather([own_node()])]
        # rank 0's word also says that no earlier rank 0 still writes: all read the same checkpoint
        if _agree(rank != 0 or _may_begin(loop["bridge"], nodes), device):
            _train(loop, context, nodes)


def _may_begin(bridge: Any, nodes: list[str]) -> bool:
    lost = any(is_lost(node) for node in dict.fromkeys(ray.get(bridge.failed_on.remote())))
    return bool(ray.get(bridge.begin.remote(nodes, lost)))


def _train(loop: dict[str, Any], context: TrialContext, nodes: list[str]) -> None:
    bridge, rank, mirror = loop["bridge"], context.rank, context.mirror

    def report(metrics: Report) -> bool:
        if mirror:
            mirror.sync()
        return _agree(rank == 0 and ray.get(bridge.report.remote(metrics)), context.device)

    try:
        if mirror:
            pull_trial(mirror)
        with Announcement(nodes if rank == 0 else []) as announced:  # rank 0 saves, whoever has to go
            whole = replace(context, report=report, save_now=announced.due)
            loop["function"](Config.from_dict(loop["config"], source="config"), whole)
    except Exception as error:
        traceback.print_exc()  # to this rank's log
        ours = error if isinstance(error, RaytuneM2FError) else None
        if mirror:
            push_trial(mirror)
        text = f"rank {rank}, process {os.getpid()}: {type(error).__name__}: {error}"
        ray.get(bridge.note_error.remote(ours, text, isinstance(error, StartAgain)))
        raise
    if mirror:
        push_trial(mirror)


def _agree(flag: bool, device: torch.device) -> bool:
    """Rank 0's flag, on every worker."""
    tensor = torch.tensor([int(flag)], device=device)
    dist.broadcast(tensor, src=0)
    return bool(tensor.item())
