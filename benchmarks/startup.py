"""CPU seconds of what should answer at once: the import, --help, the status of a study, a misspelt key; and the
seconds from `tune` to the first finished step of a trial.

    python -m benchmarks.startup

Each runs in a process of its own, after one that is not counted; the minimum and the median of 5.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raytune_m2f.config import load_config
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.data import generate_shapes
from raytune_m2f.progress import FILE
from raytune_m2f.study.layout import new_study
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, StudySettings
from raytune_m2f.study.space import load_space

RUNS = 5
TRIALS = 20
REPORTS = 8
"""Of each trial, as in the demo."""


def make_study(root: Path) -> None:
    """A study of trials that have ended, as their driver records them; without a training."""
    config = load_config("demo")
    settings = StudySettings(budget=Budget(trials=TRIALS))
    study = new_study(root, config, load_space("demo", config), settings).create()
    record = Record(study, StudyPlan.load(study.plan_file))
    end = int(config.value("SOLVER.MAX_ITER"))
    for _ in range(TRIALS):
        number = record.ask()
        for step in range(1, REPORTS + 1):
            iteration = end * step // REPORTS
            record.absorb(number, {"iteration": iteration, "segm/AP": float(step), "lr": 1e-4, "seconds": step})
        record.settle(number, ended=True)


def cpu_seconds(*words: str) -> float:
    """Of `python WORDS`, user and system, its children included."""
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    child = os.posix_spawn(sys.executable, [sys.executable, *words], os.environ, file_actions=silent)
    usage = os.wait4(child, 0)[2]
    return usage.ru_utime + usage.ru_stime


def first_step(folder: Path) -> float:
    """Wall seconds from the start of `tune` to the first step that a trial has finished; then it is interrupted."""
    words = ["--config", str(folder / "demo.yaml"), "--space", "learning_rate", "--study", str(folder / "tuned")]
    start = time.monotonic()
    command = [sys.executable, "-m", "raytune_m2f", "-q", "tune", *words, "--trials", "2"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tune:
        while tune.poll() is None and not any((folder / "tuned").glob(f"trials/*/{FILE}")):
            time.sleep(0.02)
        seconds = time.monotonic() - start
        tune.send_signal(signal.SIGINT)
    if tune.returncode != 130:
        raise RuntimeError(f"tune has ended with exit code {tune.returncode} before it was interrupted")
    shutil.rmtree(folder / "tuned")
    return seconds


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="raytune_m2f_startup_") as folder:
        study = Path(folder) / "study"
        make_study(study)
        misspelt = ["train", "--config", "demo", "--output", f"{folder}/run", "SOLVER.BASE_RL=1e-4"]
        for name, words in {
            "import raytune_m2f": ["-c", "import raytune_m2f"],
            "--help": ["-m", "raytune_m2f", "--help"],
            f"status, {TRIALS} trials": ["-m", "raytune_m2f", "status", str(study)],
            "train with a misspelt key": ["-m", "raytune_m2f", *misspelt],
        }.items():
            times = [cpu_seconds(*words) for _ in range(RUNS + 1)][1:]
            show(name, times)
        generate_shapes(Path(folder) / "data")
        shutil.copy(shipped_configs()["demo"], folder)
        show("tune to its first step, wall", [first_step(Path(folder)) for _ in range(RUNS + 1)][1:])


def show(name: str, times: list[float]) -> None:
    print(f"{name:28} {min(times):6.2f} s  median {statistics.median(times):6.2f} s", flush=True)


if __name__ == "__main__":
    main()
