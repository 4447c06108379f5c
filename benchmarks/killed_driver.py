"""A study whose driver is killed again and again by SIGKILL, and what is left of it: nothing lost, nothing doubled.

    PYTHONPATH=. python benchmarks/killed_driver.py [--kills 20] [--trials 8] [--seed 0] [--output DIR]

`raytune-m2f tune` on the demo's synthetic shapes, then `raytune-m2f resume` after each kill, at once. Every other kill
comes at any instant of the first seconds (imports, Ray's start, the trials' start), the others after some reports, the
last one when one trial is left; instants are drawn with the seed. What is checked at the end stands in `violations`;
exit code 1 if anything is found. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.data import generate_shapes
from raytune_m2f.errors import RaytuneM2FError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.status import study_status
from raytune_m2f.training.reports import read_reports

DEMO = Path(__file__).parents[1] / "configs" / "demo.yaml"
METRIC = "segm/AP"
MAX_ITER, PERIOD = 160, 10
START_UP = 9.0  # seconds until the first trial trains, about
MARK = "RAYTUNE_M2F_KILLED_DRIVER"  # in the environment of every process that is started here
INTERMEDIATE = 7  # the journal's code of an intermediate value


@dataclass(frozen=True)
class Instant:
    """When to kill: `seconds` after `reports` new reports have come, or once only one of the trials is left."""

    reports: int
    seconds: float
    last: bool = False


@dataclass(frozen=True)
class Kill:
    """One kill: seconds after the driver's start, what it met, and the training after the last checkpoints."""

    command: str
    after: float
    states: str
    reports: int
    lost: float

    def __str__(self) -> str:
        return f"{self.command:7} {self.after:8.1f} s {self.reports:8d} {self.lost:8.1f} s  {self.states}"


def instants(kills: int, seed: int) -> list[Instant]:
    """During start-up and during training in turn, and near the end."""
    draw = random.Random(seed)
    planned = [
        Instant(0, draw.uniform(0, START_UP)) if k % 2 == 0 else Instant(draw.randint(1, 3), draw.uniform(0, 1.5))
        for k in range(kills - 1)
    ]
    return [*planned, Instant(0, draw.uniform(0, 0.5), last=True)]


class Driven:
    """The study and the processes that drive it, one after the other."""

    def __init__(self, root: Path, trials: int, seed: int) -> None:
        self.study = StudyDirectory.at(root / "study")
        self.trials = trials
        self._log = (root / "drivers.log").open("a")
        self._mark = f"{os.getpid()}"
        self._tune = [
            "tune", "--config", str(root / "demo.yaml"), "--space", "demo", "--study", str(self.study.root),
            "--trials", str(trials), "--seed", str(seed), "--concurrent", "2", "--gpus-per-worker", "0",
            "SOLVER.IMS_PER_BATCH=8", f"SOLVER.MAX_ITER={MAX_ITER}",
            f"TEST.EVAL_PERIOD={PERIOD}", f"SOLVER.CHECKPOINT_PERIOD={PERIOD}",
        ]  # fmt: skip

    def start(self) -> tuple[str, subprocess.Popen[bytes]]:
        """The command that a person would give now."""
        command = ["resume", str(self.study.root)] if self.study.plan_file.exists() else self._tune
        environment = {**os.environ, MARK: self._mark}
        arguments = [sys.executable, "-m", "raytune_m2f", *command]
        return command[0], subprocess.Popen(arguments, env=environment, stdout=self._log, stderr=self._log)

    def reports(self) -> int:
        return sum(len(read_reports(folder)) for folder in self.study.trials.glob("*"))

    def counts(self) -> dict[str, int]:
        try:
            return study_status(self.study.root).counts
        except RaytuneM2FError:  # no plan or no trial yet
            return {}

    def ended(self) -> int:
        return sum(self.counts().get(state, 0) for state in ("complete", "stopped", "failed"))

    def lost(self, started: float, killed: float) -> float:
        """Seconds of training since the last checkpoint of this driver's life, over all trials that it ran."""
        lost = 0.0
        for folder in self.study.trials.glob("*"):
            if (folder / "config.yaml").exists() and folder.name in self._unfinished():
                begun = (folder / "config.yaml").stat().st_mtime  # written when a training starts
                saved = [path.stat().st_mtime for path in folder.glob("checkpoints/iter_*.pth")]
                lost += max(0.0, killed - max([begun, *saved])) if begun > started else 0.0
        return lost

    def _unfinished(self) -> set[str]:
        trials = study_status(self.study.root).trials
        return {f"{trial.number:04d}" for trial in trials if trial.state == "unfinished"}

    def running(self) -> list[int]:
        """Processes that carry the mark."""
        wanted = f"{MARK}={self._mark}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if wanted in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
            except OSError:  # it has ended, or is another user's
                continue
        return found


def kill_at(driven: Driven, instant: Instant) -> Kill | None:
    """Start the driver and kill it at this instant; None if it had ended before."""
    before = driven.reports()
    started, clock = time.time(), time.monotonic()
    command, process = driven.start()

    def due() -> bool:
        if instant.last:
            return driven.ended() >= driven.trials - 1
        return driven.reports() - before >= instant.reports

    while not due() and process.poll() is None:
        time.sleep(0.1)
    time.sleep(instant.seconds)
    if process.poll() is not None:
        return None
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed, after = time.time(), time.monotonic() - clock
    counts = driven.counts()
    states = ", ".join(f"{count} {state}" for state, count in counts.items()) or "no trial yet"
    return Kill(command, after, states, driven.reports(), driven.lost(started, killed) if counts else 0.0)


def violations(driven: Driven) -> list[str]:
    """Everything that is wrong with the study that was driven to its end."""
    backend = JournalFileBackend(str(driven.study.journal))
    trials = optuna.load_study(study_name=None, storage=JournalStorage(backend)).get_trials()
    found = []
    if [trial.number for trial in trials] != list(range(driven.trials)):
        found.append(f"{driven.trials} trials were asked for, the record has {[trial.number for trial in trials]}")
    if len({json.dumps(trial.params, sort_keys=True) for trial in trials}) < len(trials):
        found.append("two trials have the same values")
    folders = sorted(folder.name for folder in driven.study.trials.glob("*"))
    if folders != [f"{trial.number:04d}" for trial in trials]:
        found.append(f"the folders of the trials are {folders}")
    for trial in trials:
        found += [f"trial {trial.number}: {text}" for text in _of_trial(trial, driven.study)]
    told = Counter((x["trial_id"], x["step"]) for x in _journal(driven.study) if x["op_code"] == INTERMEDIATE)
    found += [f"the report of {where} was told {count} times" for where, count in told.items() if count > 1]
    return found


def _of_trial(trial: FrozenTrial, study: StudyDirectory) -> list[str]:
    found = []
    if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
        found.append(f"is {trial.state.name}: {trial.user_attrs.get('cause')}")
    reports = read_reports(study.trial(trial.number))
    steps = [int(report["iteration"]) for report in reports]
    if steps != list(range(PERIOD, PERIOD * len(steps) + 1, PERIOD)):
        found.append(f"metrics.jsonl has the iterations {steps}")
    if trial.state == TrialState.COMPLETE and steps[-1:] != [MAX_ITER]:
        found.append(f"is complete at {steps[-1:]}")
    if trial.intermediate_values != {int(report["iteration"]): report[METRIC] for report in reports}:
        found.append("the record's values are not those of metrics.jsonl")
    if reports and trial.value != max(report[METRIC] for report in reports):
        found.append(f"its value {trial.value} is not its best report")
    return found


def _journal(study: StudyDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in study.journal.read_text(encoding="utf-8").splitlines()]


def drive(driven: Driven, planned: list[Instant]) -> list[str]:
    """Kill at all instants, go on to the end, and say what is wrong then."""
    print(f"{'':3} {'command':7} {'killed after':>10} {'reports':>8} {'lost':>8}     trials")
    lost, made = 0.0, 0
    for number, instant in enumerate(planned, start=1):
        kill = kill_at(driven, instant)
        if kill is None:
            break
        made, lost = number, lost + kill.lost
        print(f"{number:3} {kill}", flush=True)
    started = time.monotonic()
    _, process = driven.start()
    code = process.wait(timeout=1800)
    print(f"the last driver: exit code {code} after {time.monotonic() - started:.1f} s; {driven.counts()}")
    trained = sum(report[-1]["seconds"] for report in map(read_reports, driven.study.trials.glob("*")) if report)
    print(f"{made} kills cost {lost:.1f} s of training; {trained:.1f} s of training count")
    found = [] if made == len(planned) else [f"the study ended after {made} of {len(planned)} kills"]
    found += [f"the last driver ended with exit code {code}"] if code else []
    end = time.monotonic() + 30
    while (left := driven.running()) and time.monotonic() < end:
        time.sleep(0.5)
    found += [f"process {process_id} is still running" for process_id in left]
    return found + violations(driven)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="new directory that is kept; by default a temporary one")
    arguments = parser.parse_args()
    root = arguments.output or Path(tempfile.mkdtemp(prefix="killed_driver_"))
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        parser.error(f"--output {root} is not empty: give a new directory, or remove it")
    generate_shapes(root / "data", train_images=80, val_images=16, seed=arguments.seed)
    shutil.copy(DEMO, root / "demo.yaml")
    driven = Driven(root, arguments.trials, arguments.seed)
    found = drive(driven, instants(arguments.kills, arguments.seed))
    print(*found, sep="\n")
    print(f"{len(found)} violations")
    if found:
        sys.exit(f"see {root}")
    if arguments.output is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
