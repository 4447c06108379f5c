"""What a trial takes where it runs: memory, and the time to predict an image."""

from __future__ import annotations

import contextlib
import gc
import resource
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from raytune_m2f.training.context import Report

CUDA_SHARE = 0.05  # of a worker's share of a GPU: what CUDA itself takes there, which torch does not count


@dataclass
class Usage:
    """Of one worker in one evaluation.

    Attributes:
        images: predicted.
        seconds: for an image of each batch, in their order.
        memory_gb: peak since the trial, or a restart of it, began [GiB]: on a GPU what torch allocated there, else the
            process's own.
    """

    images: int = 0
    seconds: list[float] = field(default_factory=list)
    memory_gb: float = 0.0
    host: str = field(default_factory=socket.gethostname)

    @contextmanager
    def predicting(self, images: int, device: torch.device) -> Iterator[None]:
        """Measure what is done here as the prediction of so many images."""
        start = _now(device)
        yield
        self.seconds.append((_now(device) - start) / images)
        self.images += images
        self.memory_gb = peak_memory(device)


def usage_report(workers: Sequence[Usage]) -> Report:
    """What a report says of all workers, in the order of their ranks.

    Returns:
        "images" in all, "latency_ms" the median (each worker's first batch, which warms up, left out if there are
        others), "memory_gb" the largest, "host" the first one's.
    """
    seconds = [value for worker in workers for value in worker.seconds[1:] or worker.seconds]
    return {
        "images": sum(worker.images for worker in workers),
        "latency_ms": round(1000 * statistics.median(seconds), 3),
        "memory_gb": round(max(worker.memory_gb for worker in workers), 3),
        "host": workers[0].host,
    }


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has used [GiB]; on a GPU, of the GPU's by torch."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_name(device: torch.device) -> str:
    """What a person calls it: cpu, or cuda:0 (NVIDIA H100 80GB HBM3)."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def share_gpu(device: torch.device, gpus: float) -> None:
    """Keep a worker that has a share of a GPU from taking its neighbours' memory: more is out of memory for it."""
    if device.type == "cuda" and gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus * (1 - CUDA_SHARE), device)


def start_fresh() -> None:
    """Free what an earlier trial left in this process, and forget its peak of memory: trials share processes."""
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()  # or its limit of recompilations would be reached
    if torch.cuda.is_initialized():
        gc.collect()  # takes some tenths of a second, in which a CPU would find nothing that it lacks
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux alone has it
        Path("/proc/self/clear_refs").write_text("5")


def _now(device: torch.device) -> float:
    """Seconds; what the GPU has been told to do is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
