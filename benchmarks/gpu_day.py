"""Two parts of gpu_day.sh: losses in two precisions, and a study with an out-of-memory halving and a killed driver.

    PYTHONPATH=. python -m benchmarks.gpu_day losses --device cuda --work DIR
    PYTHONPATH=. python -m benchmarks.gpu_day study --device cuda --work DIR

Each prints what it found and ends with exit code 1 if that is not what it should be. `--device cpu` takes small sizes:
there bfloat16 is switched on by hand, and memory that does not suffice is made believe, for a CPU has no share of it.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raytune_m2f import Study
from raytune_m2f.config import Config
from raytune_m2f.data import generate_shapes
from raytune_m2f.launch.trial import run_training
from raytune_m2f.training.memory import CUDA_SHARE
from raytune_m2f.training.reports import Report, TrialContext, read_reports
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import train_trial

TRIALS, SHARE = 4, 0.5  # two trials on a GPU
TOO_LARGE = 1.5  # times what a trial may have; half of it fits
LOSSES_APART = 0.1  # relative; rounding alone makes a few hundredths after some tens of steps
REPORTS = 4  # of each training
WAIT_S = 0.2


@dataclass(frozen=True)
class Sizes:
    """Of the network, the data and the runs; on a GPU the published network at 256 pixels, from scratch."""

    depth: int = 50
    pixels: int = 256
    hidden: int = 256
    feedforward: int = 2048
    enc_layers: int = 6
    dec_layers: int = 10
    queries: int = 100
    points: int = 12544
    batch: int = 8
    loss_steps: int = 48
    study_steps: int = 12
    loaders: int = 4
    val_images: int = 16


SIZES = {
    "cuda": Sizes(),
    "cpu": Sizes(
        depth=18, pixels=64, hidden=32, feedforward=64, enc_layers=1, dec_layers=4, queries=8, points=128, batch=4,
        loss_steps=8, study_steps=16, loaders=0, val_images=4,
    ),
}  # fmt: skip


class SmallMemory:
    """A trial for which more than `images` at once are out of memory, on a device that has no such limit."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __call__(self, config: Config, context: TrialContext) -> None:
        backward = Stepper.backward

        def limited(stepper: Stepper, samples: Sequence[Any], *others: Any) -> dict[str, torch.Tensor]:
            if len(samples) > self.images:
                raise torch.OutOfMemoryError("CUDA out of memory. This is a rehearsal")
            return backward(stepper, samples, *others)

        Stepper.backward = limited  # type: ignore[method-assign,assignment]
        try:
            train_trial(config, context)
        finally:
            Stepper.backward = backward  # type: ignore[method-assign]


def experiment(sizes: Sizes, work: Path, steps: int, train_images: int) -> Config:
    """Synthetic shapes with two subcategory heads, reported four times."""
    made = generate_shapes(
        work / f"data_{train_images}",
        train_images=train_images,
        val_images=sizes.val_images,
        image_size=sizes.pixels,
    )
    registered = {
        name: {"annotations": str(made[f"{name}_annotations"]), "images": str(made[f"{name}_images"])}
        for name in ("train", "val")
    }
    model = {
        "WEIGHTS": "",
        "RESNETS": {"DEPTH": sizes.depth, "NORM": "GN"},
        "SEM_SEG_HEAD": {
            "CONVS_DIM": sizes.hidden, "MASK_DIM": sizes.hidden, "TRANSFORMER_ENC_LAYERS": sizes.enc_layers,
        },
        "MASK_FORMER": {
            "HIDDEN_DIM": sizes.hidden, "DIM_FEEDFORWARD": sizes.feedforward, "DEC_LAYERS": sizes.dec_layers,
            "NUM_OBJECT_QUERIES": sizes.queries, "TRAIN_NUM_POINTS": sizes.points,
        },
    }  # fmt: skip
    content = {
        "MODEL": model,
        "DATASETS": {
            "REGISTER": registered, "TRAIN": ["train"], "TEST": ["val"], "SUBCATEGORIES": ["color", "texture"],
        },
        "DATALOADER": {"NUM_WORKERS": sizes.loaders},
        "INPUT": {"IMAGE_SIZE": sizes.pixels, "MIN_SIZE_TEST": sizes.pixels, "MAX_SIZE_TEST": sizes.pixels},
        "SOLVER": {
            "IMS_PER_BATCH": sizes.batch, "MAX_ITER": steps, "BASE_LR": 1e-4, "BACKBONE_MULTIPLIER": 1.0,
            "CHECKPOINT_PERIOD": max(1, steps // REPORTS),
        },
        "TEST": {"EVAL_PERIOD": max(1, steps // REPORTS), "IMS_PER_BATCH": 4},
    }  # fmt: skip
    return Config.from_dict(content, source="gpu_day")


def trained(config: Config, output: Path, device: str) -> list[Report]:
    """The reports of a training in this process."""
    run_training(config, output, gpus_per_worker=None if device == "cuda" else 0)
    return read_reports(output)


def losses(device: str, work: Path) -> bool:
    """The same seed and batches in float32 and in bfloat16: a table, and whether the losses stay together."""
    sizes = SIZES[device]
    config = experiment(sizes, work, sizes.loss_steps, 4 * sizes.batch)
    if device == "cpu":
        Stepper.autocast = lambda self: torch.autocast(  # type: ignore[method-assign]
            "cpu", dtype=torch.bfloat16, enabled=self.config.SOLVER.AMP.ENABLED
        )
    exact, rounded = (
        trained(config.with_values({"SOLVER.AMP.ENABLED": enabled}), work / f"amp_{enabled}", device)
        for enabled in (False, True)
    )
    terms = [name for name in exact[0] if name.startswith("loss")]
    print("| iteration | term | float32 | bfloat16 | apart |\n|---|---|---|---|---|")
    apart = []
    for one, other in zip(exact, rounded, strict=True):
        for name in terms:
            difference = other[name] / one[name] - 1 if one[name] else 0.0
            apart += [abs(difference)] if name == "loss" else []
            print(f"| {one['iteration']} | {name} | {one[name]:.4f} | {other[name]:.4f} | {difference:+.1%} |")
    for name, reports in (("float32", exact), ("bfloat16", rounded)):
        last = reports[-1]
        print(f"{name}: {last['seconds']:.1f} s, {last['memory_gb']:.2f} GiB, segm/AP {last['segm/AP']:.2f}")
    finite = all(math.isfinite(report["loss"]) for report in (*exact, *rounded))
    different = any(one["loss"] != other["loss"] for one, other in zip(exact, rounded, strict=True))
    return claim({
        "every loss is finite": finite,
        "bfloat16 rounds": different,
        f"the losses are at most {LOSSES_APART:.0%} apart": finite and max(apart) <= LOSSES_APART,
    })  # fmt: skip


def too_large_a_batch(sizes: Sizes, work: Path, device: str) -> int:
    """Images that need `TOO_LARGE` times the memory that a trial may have: from what 4 and 8 take."""
    if device == "cpu":
        return 2 * sizes.batch
    config = experiment(sizes, work, 1, 8)
    taken = [
        trained(config.with_values({"SOLVER.IMS_PER_BATCH": n}), work / f"takes_{n}", device)[-1]["memory_gb"]
        for n in (4, 8)
    ]
    slope = (taken[1] - taken[0]) / 4
    limit: float = torch.cuda.get_device_properties(0).total_memory / 2**30 * SHARE * (1 - CUDA_SHARE)
    base = taken[1] - 8 * slope
    print(f"4 images take {taken[0]:.2f} GiB, 8 take {taken[1]:.2f}; a trial may have {limit:.2f}")
    torch.cuda.empty_cache()
    return int((TOO_LARGE * limit - base) / slope) + 1


def study(device: str, work: Path) -> bool:
    """Four trials, two at once; the driver is killed on the way, and the study resumed."""
    sizes = SIZES[device]
    batch = too_large_a_batch(sizes, work, device)
    print(f"a batch of {batch} images is too large", flush=True)
    config = experiment(sizes, work, sizes.study_steps, max(batch, 4 * sizes.batch))
    (work / "config.yaml").write_text(config.with_values({"SOLVER.IMS_PER_BATCH": batch}).to_yaml())
    space = {"SOLVER.BASE_LR": {"type": "loguniform", "low": 1e-5, "high": 1e-3}}
    space["SOLVER.IMS_PER_BATCH"] = {"type": "categorical", "choices": [sizes.batch, batch]}
    (work / "space.yaml").write_text(json.dumps(space))
    root = work / "study"
    command = [sys.executable, "-m", "raytune_m2f"]
    if device == "cpu":
        command = [sys.executable, "-m", "benchmarks.gpu_day", "drive", "--fits", str(batch // 2)]
    at_once = killed_driver([*command, *tune_words(device, work)], root)
    resumed = subprocess.run([*command, *resume_words(work)], check=False)
    return claim({
        "the driver was killed while two trials trained": at_once == 2,
        "the study was resumed": resumed.returncode == 0,
        **claims_of(root, config),
    })  # fmt: skip


def tune_words(device: str, work: Path) -> list[str]:
    """The command line that starts the study in `work`/study."""
    words = ["--config", work / "config.yaml", "--space", work / "space.yaml", "--study", work / "study"]
    words += ["--trials", TRIALS, "--concurrent", 2, "--gpus-per-worker", SHARE if device == "cuda" else 0]
    return ["tune", *map(str, words), "--early-stopping", "none"]


def resume_words(work: Path) -> list[str]:
    """The command line that goes on with it."""
    return ["resume", str(work / "study")]


def killed_driver(command: list[str], root: Path) -> int:
    """Kill the driver once two trials train and there is a report; how many trials trained then."""
    driver = subprocess.Popen(command)
    reports, training = 0, 0
    try:
        while driver.poll() is None and (training < 2 or not reports):
            time.sleep(WAIT_S)
            told = [len(read_reports(folder)) for folder in root.glob("trials/*") if (folder / "config.yaml").exists()]
            reports, training = sum(told), sum(count < REPORTS for count in told)
    finally:
        alive = driver.poll() is None
        driver.kill()
        driver.wait()
    print(f"the driver was killed with {reports} reports, while {training} trials trained", flush=True)
    return training if alive else 0


def claims_of(root: Path, config: Config) -> dict[str, bool]:
    """What has to hold of the study in the end; its trials are printed."""
    trials = [read_reports(folder) for folder in sorted(root.glob("trials/*"))]
    print("| trial | batch | micro-batch | GiB | loss | segm/AP |\n|---|---|---|---|---|---|")
    for number, reports in enumerate(trials):
        for last in reports[-1:]:
            values = (last["global_batch"], last["micro_batch"], last["memory_gb"], last["loss"], last["segm/AP"])
            print(f"| {number} |", " | ".join(f"{value:.4g}" for value in values), "|")
    period = config.TEST.EVAL_PERIOD
    iterations = list(range(period, config.SOLVER.MAX_ITER + 1, period))
    halved = [last for reports in trials for last in reports[-1:] if last["micro_batch"] < last["global_batch"]]
    logs = [path.read_text(encoding="utf-8") for path in root.glob("trials/*/log.txt")]
    states = [trial.state for trial in Study(root).trials]
    print("states:", ", ".join(states))
    return {
        f"{TRIALS} trials are complete": states == ["complete"] * TRIALS,
        "each report is there once": [[r["iteration"] for r in reports] for reports in trials] == [iterations] * TRIALS,
        "out of memory, a trial halved its micro-batch": bool(halved) and any("out of memory with" in x for x in logs),
    }


def claim(claims: dict[str, bool]) -> bool:
    """Print each, and tell whether all hold."""
    for text, holds in claims.items():
        print(f"{'yes' if holds else 'NO'}: {text}", flush=True)
    return all(claims.values())


def drive(fits: int, words: Sequence[str]) -> None:
    """`raytune-m2f` with these words, whose trials are out of memory with more than `fits` images at once."""
    from raytune_m2f.cli.main import app
    from raytune_m2f.drive import runner

    limited: Any = functools.partial(runner.run_study, trial_function=SmallMemory(fits))
    runner.run_study = limited
    app(list(words))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, part in (("losses", losses), ("study", study)):
        options = parts.add_parser(name)
        options.add_argument("--device", choices=SIZES, default="cuda")
        options.add_argument("--work", type=Path, required=True, help="folder for data and runs")
        options.set_defaults(run=part)
    driver = parts.add_parser("drive", help="used by the rehearsal of `study`")
    driver.add_argument("--fits", type=int, required=True)
    driver.add_argument("words", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.part == "drive":
        drive(arguments.fits, arguments.words)
        return
    arguments.work.mkdir(parents=True, exist_ok=True)
    sys.exit(not arguments.run(arguments.device, arguments.work))


if __name__ == "__main__":
    main()
