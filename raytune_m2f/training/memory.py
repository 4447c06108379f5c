"""Memory: what is done when it does not suffice, and what a trial takes of it, and of time, where it runs.

Out of memory, the micro-batch is halved; global batch, learning rate and sampling stay. The halved micro-batch is noted
in the trial's directory, for a restart and for the other workers: one that is out of memory cannot tell them, for they
wait for its gradients. The note only ever lowers SOLVER.MICRO_BATCH.
"""

from __future__ import annotations

import contextlib
import gc
import re
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

from raytune_m2f.errors import OutOfMemoryError, TrainingError
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.training.reports import Report

NOTE = ".micro_batch"
ADVICE = (
    "Lower INPUT.IMAGE_SIZE, MODEL.MASK_FORMER.NUM_OBJECT_QUERIES or MODEL.MASK_FORMER.TRAIN_NUM_POINTS, take a "
    "smaller backbone, enable SOLVER.AMP on a GPU, or use a machine with more memory."
)
CUDA_SHARE = 0.05  # of a worker's share of a GPU: what CUDA itself takes there, which torch does not count
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")


# Out of memory


class StartAgain(Exception):  # noqa: N818  # not an error: all workers start again, with the micro-batch that was noted
    """A worker of several was out of memory and has noted a smaller micro-batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is an allocator's, a GPU's or the CPU's, which raises a RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def oom_as_error(what: str, advice: str = ADVICE) -> Iterator[None]:
    """Raise any allocator's error within as OutOfMemoryError, which says what was done and what helps."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory {what}: {first_line(error)}. {advice}") from error


def first_line(error: BaseException) -> str:
    """The allocator's first sentences, without its advice on settings."""
    return (str(error).partition("\n")[0] or type(error).__name__).rstrip(".")


def noted_micro_batch(output_dir: Path) -> int | None:
    """The micro-batch that has been found to fit, None if none was too large. Raises TrainingError if it is damaged."""
    note = output_dir / NOTE
    if not note.exists():
        return None
    text = note.read_bytes()[:40].decode("utf-8", "replace").strip()
    if not re.fullmatch(r"[1-9]\d{0,8}", text, flags=re.ASCII):
        raise TrainingError(f"{note} holds {text!r}, not a micro-batch [images]: delete it.")
    return int(text)


def note_micro_batch(output_dir: Path, micro_batch: int) -> None:
    """Note the micro-batch for this trial from now on. Raises TrainingError if it cannot be written."""
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(output_dir / NOTE, f"{micro_batch}\n")
    except OSError as error:
        raise TrainingError(f"out of memory, and {output_dir / NOTE} cannot be written: {error}.") from error


# Usage


@dataclass
class Usage:
    """What one worker takes in one evaluation: `seconds` for an image of each batch, and `peak_memory` [GiB]."""

    images: int = 0
    seconds: list[float] = field(default_factory=list)
    memory_gb: float = 0.0
    host: str = field(default_factory=socket.gethostname)

    @contextmanager
    def predicting(self, images: int, device: torch.device) -> Iterator[None]:
        """Measure the block as the prediction of so many images."""
        start = _now(device)
        yield
        self.seconds.append((_now(device) - start) / images)
        self.images += images
        self.memory_gb = peak_memory(device)


def usage_report(workers: Sequence[Usage]) -> Report:
    """What a report says of all workers, in the order of their ranks: "memory_gb" is the largest, "host" the first's.

    "latency_ms" is the median without each worker's first batch, which warms up, if there are others.
    """
    seconds = [value for worker in workers for value in worker.seconds[1:] or worker.seconds]
    return {
        "images": sum(worker.images for worker in workers),
        "latency_ms": round(1000 * statistics.median(seconds), 3),
        "memory_gb": round(max(worker.memory_gb for worker in workers), 3),
        "host": workers[0].host,
    }


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process since `start_fresh` [GiB]; on a GPU, what torch has allocated there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def device_name(device: torch.device) -> str:
    """A device for a log: cpu, or cuda:0 (NVIDIA H100 80GB HBM3)."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def share_gpu(device: torch.device, gpus: float) -> None:
    """Limit this process to its share of a GPU's memory; to ask for more is out of memory."""
    if device.type == "cuda" and gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus * (1 - CUDA_SHARE), device.index)  # None: the current one


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
