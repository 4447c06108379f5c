"""What several workers of a trial are worth: the same training by one worker, then by several.

    python benchmarks/workers.py [--workers 2] [--iterations 40] [--pairs 2] [--gpus-per-worker 0] [--address auto]

Trains the demo's configuration with the same global batch in both ways, in turn, and prints the images per second
between the first and the last report of each (start-up left out), their ratio, and how far the losses lie apart. Each
worker trains on one CPU thread, so that the second worker is a second core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from raytune_m2f.config import Config, load_config
from raytune_m2f.data import generate_shapes
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.session import ray_session
from raytune_m2f.launch.workers import train_on_workers
from raytune_m2f.training.reports import SEGM_AP, Report

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"


@dataclass(frozen=True)
class Run:
    """One training: images per second, seconds to the first report, and the loss at each report."""

    throughput: float
    start_up: float
    losses: list[float]


def configure(root: Path, iterations: int, period: int) -> Config:
    """The demo on its synthetic shapes, with GroupNorm: batch norm sees how a batch is split."""
    generate_shapes(root / "data", train_images=80, val_images=2, seed=0)
    (root / "demo.yaml").write_text(DEMO.read_text(encoding="utf-8"), encoding="utf-8")
    overrides = [
        "MODEL.RESNETS.NORM=GN",
        "SOLVER.IMS_PER_BATCH=8",
        "SOLVER.BASE_LR=1e-5",
        "SOLVER.CHECKPOINT_PERIOD=100000",
    ]
    return load_config(root / "demo.yaml", [*overrides, f"SOLVER.MAX_ITER={iterations}", f"TEST.EVAL_PERIOD={period}"])


def train(config: Config, output: Path, workers: int, gpus: float) -> Run:
    told: list[tuple[float, Report]] = []

    def tell(report: Report) -> bool:
        told.append((time.monotonic(), report))
        return False

    start = time.monotonic()
    train_on_workers(
        TrialJob(config, (SEGM_AP,), workers=(workers, workers), gpus_per_worker=gpus), Place.at(output), tell
    )
    (first, _), (last, _) = told[0], told[-1]
    iterations = told[-1][1]["iteration"] - told[0][1]["iteration"]
    images = iterations * config.SOLVER.IMS_PER_BATCH
    return Run(images / (last - first), first - start, [report["loss"] for _, report in told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--gpus-per-worker", type=float, default=0.0)
    parser.add_argument("--address")
    arguments = parser.parse_args()
    several = arguments.workers
    runs: dict[int, list[Run]] = {1: [], several: []}
    with tempfile.TemporaryDirectory(prefix="workers_") as folder, ray_session(arguments.address):
        root = Path(folder)
        config = configure(root, arguments.iterations, period=max(1, arguments.iterations // 4))
        for pair in range(arguments.pairs):
            for workers in (1, several) if pair % 2 == 0 else (several, 1):
                output = root / f"{pair}_{workers}"
                run = train(config, output, workers, arguments.gpus_per_worker)
                runs[workers].append(run)
                figures = f"{run.throughput:6.2f} images/s, first report after {run.start_up:5.1f} s"
                print(f"{workers} worker(s): {figures}, losses {[round(loss, 3) for loss in run.losses]}", flush=True)
    ratios = [b.throughput / a.throughput for a, b in zip(runs[1], runs[several], strict=True)]
    print(f"{several} workers / 1: {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")
    apart = [
        abs(x - y) / x
        for a, b in zip(runs[1], runs[several], strict=True)
        for x, y in zip(a.losses, b.losses, strict=True)
    ]
    print(f"losses apart by {max(apart):.1e} at most, relative")


if __name__ == "__main__":
    main()
