"""Times and memory of two programs that do the same, so that a noisy machine does not decide."""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[], object]


@dataclass(frozen=True)
class Pairs:
    """CPU seconds of the reference and of ours, run in turn."""

    reference: list[float]
    ours: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster ours is: the median over pairs."""
        return statistics.median(a / b for a, b in zip(self.reference, self.ours, strict=True))

    def __str__(self) -> str:
        ratios = sorted(a / b for a, b in zip(self.reference, self.ours, strict=True))
        theirs, ours = (1000 * statistics.median(x) for x in (self.reference, self.ours))
        return f"{theirs:9.1f} ms {ours:9.1f} ms   {self.ratio:5.2f}x  ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def alternate(reference: Run, ours: Run, pairs: int) -> Pairs:
    """Run both once to warm up, then in turn, the order changing from pair to pair."""
    reference(), ours()
    times: dict[Run, list[float]] = {reference: [], ours: []}
    for number in range(pairs):
        for run in (reference, ours) if number % 2 else (ours, reference):
            gc.collect()
            start = time.process_time()
            run()
            times[run].append(time.process_time() - start)
    return Pairs(times[reference], times[ours])


def memory_mib() -> float:
    """MiB that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak_memory(run: Run) -> float:
    """MiB that `run` needs at its peak beyond what is there before: of a child process, forked for it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would not count
    reading, writing = os.pipe()
    if os.fork() == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(writing, str((after - before) / 1024).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.wait()
    return float(answer)
