"""What a search gains: real studies of the demo's shapes, for equal iterations, scored on images that none has seen.

    python -m benchmarks.live --output DIR [--seeds 12] [--processes 2] [--iterations 2400] [--arms random auto]

A seed is of the search, of the trainings and of the data; the arms of a seed share them, so that they are compared in
pairs. The configuration is that of the table of shapes (`curves.py`), the space too, but for the batch. Studies run one
trial at a time on one thread, each process one study, and all studies of a process on one session of Ray. What is there
already is not run again, and a study that was interrupted goes on.

`old` was the default until November 2026: TPE after ten random trials, ASHA. `auto` is the default.

The score is the test AP of the checkpoint that would be exported, at the end and at each moment before. Every
checkpoint that was the best of its trial is kept while the study runs; those that were the best of the study are then
scored on 200 images of their own, and all are removed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from queue import Empty
from typing import Any
from unittest import mock

import numpy as np
import torch
from optuna.samplers import BaseSampler
from scipy.stats import t

from benchmarks.curves import TASKS, config_of, make_shapes, scores_of
from benchmarks.replay import Floats, first_above, rounded, sampler_of
from raytune_m2f.config import Config
from raytune_m2f.data.coco import load_coco
from raytune_m2f.drive.runner import run_study
from raytune_m2f.engines import build_engine
from raytune_m2f.engines.datasets import NativeEngine
from raytune_m2f.launch.session import ray_session
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.study.layout import new_study
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, StudySettings, usual_stopping
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.status import StudyStatus
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.trial_dir import BEST, CHECKPOINTS
from raytune_m2f.training.worker import train_trial

ARMS: dict[str, dict[str, Any]] = {
    "random": {"sampler": "random", "early_stopping": EarlyStopping(method="none")},
    "random_asha": {"sampler": "random", "early_stopping": EarlyStopping(method="asha")},
    "old": {"sampler": "tpe", "early_stopping": EarlyStopping(method="asha")},
    "auto": {"sampler": "auto", "early_stopping": EarlyStopping(method=usual_stopping("auto"))},
}
BATCH = {"SOLVER.IMS_PER_BATCH": {"type": "int", "low": 1, "high": 4, "log": True}}
MAKE_SAMPLER = "raytune_m2f.study.record.record.make_sampler"
KEPT, COURSE, STUDY = "kept", "course.jsonl", "study"
GRID = 30


# A study


def kept(config: Config, context: TrialContext) -> object:
    """Train a trial; each `best.pth` stays, under the iteration that it is of."""
    best, folder = context.output_dir / CHECKPOINTS / BEST, context.output_dir / KEPT

    def on_saved() -> None:
        context.on_saved()
        if best.exists():
            folder.mkdir(exist_ok=True)
            found = folder / f"{best.stat().st_ino}.pth"  # the file itself: `best.pth` will be another one
            if not found.exists():
                os.link(best, found)

    return train_trial(config, dataclasses.replace(context, on_saved=on_saved))


class Course:
    """Notes at each change of what would be exported: iterations used so far, the trial and its report's iteration."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._last: dict[str, Any] = {}
        if file.exists():
            self._last = json.loads(file.read_text(encoding="utf-8").splitlines()[-1])

    def update(self, status: StudyStatus) -> None:
        best = status.best_trial
        if best is None:
            return
        now = {"trial": best.number, "iteration": best.best_iteration, "AP": best.best}
        if now != {name: self._last.get(name) for name in now}:
            self._last = {"used": int(status.usage["iterations"]), **now}
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._last) + "\n")

    def note(self, text: str) -> None:
        pass


def old_sampler(kind: str, seed: int, started: int, axes: Axes, max_iter: int) -> BaseSampler:
    """In place of `MAKE_SAMPLER`."""
    return sampler_of("old", axes, max_iter, seed, started)


def run_arm(folder: Path, arm: str, seed: int, iterations: int) -> dict[str, Any]:
    """One study, to the end of its budget; begun ones go on.

    Args:
        folder: of the seed; its data are there, or are made.
    """
    make_shapes(folder / "data", seed)
    config = config_of("shapes", folder, {}, seed)
    study = folder / arm / STUDY
    if not (study / "study.yaml").exists():
        settings = StudySettings(
            budget=Budget(iterations=iterations),
            seed=seed,
            resources=Resources(concurrent=1, cpus_per_worker=1),
            **ARMS[arm],
        )
        space = SearchSpace.from_dict({**TASKS["shapes"].space, **BATCH}, "live")
        new_study(study, config, space, settings).create()
    started = time.monotonic()
    with mock.patch(MAKE_SAMPLER, old_sampler) if arm == "old" else nullcontext():
        status = run_study(study, progress=Course(folder / arm / COURSE), trial_function=kept)
    seconds = time.monotonic() - started
    file = folder / arm / COURSE
    course = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    tests = scored(folder, arm, course)
    return {
        "arm": arm,
        "seed": seed,
        "trials": len([trial for trial in status.trials if trial.state != "waiting"]),
        "iterations": int(status.usage["iterations"]),
        "seconds": round(seconds, 1),
        "training_seconds": round(sum(trial.seconds for trial in status.trials), 1),
        "values": status.best_trial.values if status.best_trial else None,
        "course": [{**moment, "test AP": score} for moment, score in zip(course, tests, strict=True)],
    }


def scored(folder: Path, arm: str, course: Sequence[Mapping[str, Any]]) -> list[float | None]:
    """Test AP of each moment's checkpoint; None if it is not there: it was interrupted as it was written."""
    weights: dict[tuple[int, int], Path] = {}
    trials = folder / arm / STUDY / "trials"
    for file in sorted(trials.glob(f"*/{KEPT}/*.pth"), key=lambda file: file.stat().st_mtime):
        report = torch.load(file, weights_only=True, map_location="cpu", mmap=True)["report"]
        weights[int(file.parts[-3]), int(report["iteration"])] = file
    found: dict[tuple[int, int], float] = {}
    for moment in course:
        place = moment["trial"], moment["iteration"]
        if place in weights and place not in found:
            found[place] = test_ap(folder, weights[place])
    return [found.get((moment["trial"], moment["iteration"])) for moment in course]


def test_ap(folder: Path, weights: Path) -> float:
    """AP of a checkpoint on the test images."""
    saved = torch.load(weights, weights_only=True, map_location="cpu")
    config = Config.from_dict(saved["config"], source=str(weights))
    engine = build_engine(config)
    assert isinstance(engine, NativeEngine)
    test = load_coco("test", folder / "data/test.json", folder / "data/test", config.DATASETS.SUBCATEGORIES)
    learner = engine.learner()
    learner.load_weights(str(weights))
    learner.model.eval()
    with torch.no_grad():
        return float(scores_of(engine, learner, test, engine.evaluator_of(test), dense=False)["AP"])


# Many studies


def work(output: Path, iterations: int, queue: Any) -> None:
    """Run the studies of the queue, until it is empty; on one session of Ray."""
    torch.set_num_threads(1)
    with ray_session():
        while True:
            try:
                seed, arm = queue.get_nowait()
            except Empty:
                return
            folder = output / f"seed-{seed}"
            file = folder / f"{arm}.json"
            if file.exists():
                continue
            result = run_arm(folder, arm, seed, iterations)
            write_atomically(file, json.dumps(result))
            for left in (folder / arm / STUDY / "trials").glob(f"*/{KEPT}"):
                shutil.rmtree(left)
            print(f"seed {seed}, {arm}: {result['trials']} trials in {result['seconds']:.0f} s", flush=True)


def run_all(output: Path, seeds: Iterable[int], arms: Sequence[str], iterations: int, processes: int) -> None:
    """All studies that are not there yet, seed by seed."""
    output.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        queue = manager.Queue()
        for seed in seeds:
            make_shapes(output / f"seed-{seed}" / "data", seed)  # before two processes could
            for arm in arms:
                queue.put((seed, arm))
        workers = [context.Process(target=work, args=(output, iterations, queue)) for _ in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


# What comes of it


def scores_at(result: Mapping[str, Any], grid: Sequence[int]) -> Floats:
    """(G,): test AP of what would be exported after so many iterations; 0 before there is anything."""
    known = [(moment["used"], moment["test AP"]) for moment in result["course"] if moment["test AP"] is not None]
    return np.array([next((score for used, score in reversed(known) if used <= at), 0.0) for at in grid])


def half_width(values: Floats) -> Floats:
    """Of the 95 % t interval of the mean over seeds (N, ...); not a number for one seed."""
    N = len(values)
    if N < 2:
        return np.full(values.shape[1:], math.nan)
    return np.asarray(t.ppf(0.975, N - 1) * values.std(0, ddof=1) / math.sqrt(N))


def summary(output: Path, arms: Sequence[str], iterations: int) -> dict[str, Any]:
    """Of the seeds that have all arms: scores, differences in pairs, and when random's final score is reached."""
    folders = sorted(output.glob("seed-*"), key=lambda folder: int(folder.name.removeprefix("seed-")))
    whole = [folder for folder in folders if all((folder / f"{arm}.json").exists() for arm in arms)]
    results = {arm: [json.loads((folder / f"{arm}.json").read_text()) for folder in whole] for arm in arms}
    grid = list(range(GRID, iterations + 1, GRID))
    scores = {arm: np.array([scores_at(one, grid) for one in of_arm]) for arm, of_arm in results.items()}
    found: dict[str, Any] = {"seeds": [folder.name.removeprefix("seed-") for folder in whole], "iterations": grid}
    if not whole:
        return {**found, "arms": {}}
    found["arms"] = {}
    for arm in arms:
        of_arm = {
            "AP": scores[arm].mean(0),
            "half_width": half_width(scores[arm]),
            "final": scores[arm][:, -1],
            "trials": statistics.fmean(one["trials"] for one in results[arm]),
            "seconds": statistics.fmean(one["seconds"] for one in results[arm]),
            "overhead": statistics.fmean(one["seconds"] - one["training_seconds"] for one in results[arm]),
            "against": {},
        }
        for other in arms:
            if other == arm:
                continue
            difference, ends = scores[arm] - scores[other], scores[other][:, -1]
            reached = [first_above(row, end, np.array(grid)) for row, end in zip(scores[arm], ends, strict=True)]
            of_arm["against"][other] = {
                "difference": difference.mean(0),
                "half_width": half_width(difference),
                "mean_reaches": first_above(scores[arm].mean(0), float(ends.mean()), np.array(grid)),
                "reaches": reached,
                "censored": reached.count(None) / len(reached),
            }
        found["arms"][arm] = of_arm
    return found


def lines(result: Mapping[str, Any]) -> Iterable[str]:
    """The result as text."""
    grid, arms = result["iterations"], result["arms"]
    yield f"{len(result['seeds'])} seeds with every arm: {' '.join(result['seeds'])}"
    moments = sorted({len(grid) // 3 - 1, len(grid) // 2 - 1, len(grid) - 1} - {-1})
    for arm, of in arms.items():
        yield (
            f"{arm:12} "
            + ", ".join(f"{of['AP'][i]:.2f} +- {of['half_width'][i]:.2f} after {grid[i]}" for i in moments)
            + f"; {of['trials']:.1f} trials, {of['seconds']:.0f} s, of it {of['overhead']:.0f} s not training"
        )
    for arm, of in arms.items():
        for other, one in of["against"].items():
            cells = [f"{one['difference'][i]:+.2f} +- {one['half_width'][i]:.2f} at {grid[i]}" for i in moments]
            reached = one["mean_reaches"] or "never"
            never = sum(end is None for end in one["reaches"])
            yield (
                f"{arm} - {other}: {', '.join(cells)}; its mean is above {other}'s final from {reached} on; "
                f"{never} of {len(one['reaches'])} seeds never reach their {other}'s final"
            )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--iterations", type=int, default=2400)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only-read", action="store_true", help="run nothing: say what is there")
    given = parser.parse_args(words)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not given.only_read:
        run_all(given.output, range(given.seeds), given.arms, given.iterations, given.processes)
    result = summary(given.output, given.arms, given.iterations)
    for line in lines(result):
        print(line)
    write_atomically(given.output / "live.json", json.dumps(rounded(result)))


if __name__ == "__main__":
    from benchmarks import live

    live.main()  # not of `__main__`: Ray's workers import what they run
