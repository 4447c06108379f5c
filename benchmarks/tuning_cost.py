"""What the machinery of a study costs.

    python benchmarks/tuning_cost.py simulate [--trials 2000]      the driver alone, with scripted trials
    python benchmarks/tuning_cost.py study [--seconds 60]          a study on Ray whose trials only wait

`simulate` prints, over the length of a study, the time of a report and of a suggestion and the driver's memory; `study`
prints how much longer a study takes than its trials, and how long a trial takes from Tune's start to its first line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.measure import memory_mib
from raytune_m2f.config import Config
from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.runner import run_study
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import new_study
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.reports import TrialContext, append_report

MAX_ITER, PERIOD = 90, 10
CONFIG = {"SOLVER": {"MAX_ITER": MAX_ITER, "STEPS": []}, "TEST": {"EVAL_PERIOD": PERIOD}}
SPACE = {
    "SOLVER.BASE_LR": {"type": "loguniform", "low": 1e-5, "high": 1e-2},
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": {"type": "int", "low": 20, "high": 300, "step": 10},
    "MODEL.MASK_FORMER.CLASS_WEIGHT": {"type": "loguniform", "low": 0.5, "high": 10.0},
    "MODEL.MASK_FORMER.MASK_WEIGHT": {"type": "loguniform", "low": 1.0, "high": 20.0},
}


def report(iteration: int, value: float) -> dict[str, Any]:
    """As large as a real one."""
    metrics = {f"segm/AP-class {i}": value for i in range(10)}
    losses = {f"loss_{name}": 1.0 for name in ("ce", "mask", "dice")}
    return {"iteration": iteration, "segm/AP": value, **metrics, **losses, "lr": 1e-4, "seconds": float(iteration)}


def make_study(folder: str, trials: int, *, stopping: bool, concurrent: int | None = None) -> StudyDirectory:
    """A new study of the configuration and space of these benchmarks."""
    settings = StudySettings(
        budget=Budget(trials=trials),
        early_stopping=EarlyStopping(method="asha" if stopping else "none"),
        resources=Resources(concurrent=concurrent),
    )
    return new_study(Path(folder) / "s", Config.from_dict(CONFIG), SearchSpace.from_dict(SPACE), settings).create()


def simulate(trials: int, concurrent: int = 8) -> None:
    """One driver, `concurrent` trials at a time that report in turn; no Ray, no training."""
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(folder, trials, stopping=True)
        _simulate(Driver(Record(study, StudyPlan.load(study.plan_file)), []), study, trials, concurrent)


def _simulate(driver: Driver, study: StudyDirectory, trials: int, concurrent: int) -> None:
    rng = random.Random(0)
    alive: dict[int, tuple[float, int]] = {}
    times: dict[str, list[float]] = defaultdict(list)
    ended = 0
    print(f"{'trials':>7} {'report':>9} {'suggestion':>11} {'end':>9} {'memory':>9} {'record':>9}")
    while ended < trials:
        while len(alive) < concurrent and (handed := timed(times["next"], driver.next_trial)) is not None:
            alive[handed[0]] = (rng.random() * 50, 0)
            study.trial(handed[0]).mkdir()
        number, (skill, step) = rng.choice(list(alive.items()))
        step += PERIOD
        alive[number] = (skill, step)
        told = report(step, skill * step / MAX_ITER + rng.random())
        append_report(study.trial(number), told)
        timed(times["report"], lambda: driver.on_report(number, told))  # noqa: B023
        if step == MAX_ITER or (study.trial(number) / "stop").exists():
            timed(times["end"], lambda: driver.on_end(number))  # noqa: B023
            del alive[number]
            ended += 1
            if ended % (trials // 10) == 0:
                medians = [1000 * statistics.median(times[name]) for name in ("report", "next", "end")]
                size = study.journal.stat().st_size / 2**20
                print(
                    f"{ended:7} {medians[0]:6.2f} ms {medians[1]:8.1f} ms {medians[2]:6.2f} ms {memory_mib():5.0f} MiB "
                    f"{size:5.1f} MiB",
                    flush=True,
                )
                times.clear()


def timed(times: list[float], action: Any) -> Any:
    start = time.perf_counter()
    result = action()
    times.append(time.perf_counter() - start)
    return result


class Waiting:
    """A trial that only waits, and notes when its first line ran."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, config: Config, context: TrialContext) -> None:
        begun = time.time()
        for iteration in range(PERIOD, MAX_ITER + 1, PERIOD):
            time.sleep(self.seconds * PERIOD / MAX_ITER)
            append_report(context.output_dir, told := report(iteration, config.SOLVER.BASE_LR))
            if context.report(told):
                break
        spans = {"begun": begun, "ended": time.time(), "process": os.getpid()}
        (context.output_dir / "spans.json").write_text(json.dumps(spans))


def study(trials: int, concurrent: int, seconds: float) -> None:
    """A study without early stopping, from the command's start to its end."""
    with tempfile.TemporaryDirectory() as folder:
        made = make_study(folder, trials, stopping=False, concurrent=concurrent)
        start = time.time()
        run_study(made.root, trial_function=Waiting(seconds))
        wall = time.time() - start
        spans = sorted(
            (json.loads((made.trial(n) / "spans.json").read_text()) for n in range(trials)), key=lambda s: s["begun"]
        )
        first = spans[0]["begun"] - start
        gaps = _gaps(spans)
        ideal = seconds * trials / concurrent
        print(
            f"{trials} trials of {seconds:g} s, {concurrent} at once, in {len({s['process'] for s in spans})} processes"
        )
        print(f"wall {wall:.1f} s, the trials alone {ideal:.1f} s: {100 * (wall - ideal) / wall:.1f} % machinery")
        print(f"from the command to the first trial's first line {first:.1f} s")
        print(f"from the end of a trial to the next one's first line: median {statistics.median(gaps):.2f} s, {gaps}")


def _gaps(spans: list[dict[str, float]]) -> list[float]:
    """Each later trial's start since the latest end of an earlier one that nobody has followed yet."""
    ends = sorted(span["ended"] for span in spans)
    starts = [span["begun"] for span in spans if span["begun"] > ends[0]]
    return [round(begun - end, 2) for begun, end in zip(starts, ends, strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("simulate", "study"))
    parser.add_argument("--trials", type=int, help="2000, or 8 on Ray")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a trial on Ray")
    parser.add_argument("--concurrent", type=int, default=2, help="trials at once on Ray")
    arguments = parser.parse_args()
    if arguments.what == "simulate":
        simulate(arguments.trials or 2000)
    else:
        study(arguments.trials or 8, arguments.concurrent, arguments.seconds)


if __name__ == "__main__":
    main()
