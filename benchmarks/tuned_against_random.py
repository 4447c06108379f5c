"""What tuning gains: the configuration's own values, the best of a random search, and ours, for equal iterations.

    python benchmarks/tuned_against_random.py --output /tmp/tuned [--seeds 0 1 2]

The demo's synthetic shapes and its search space, shortened. For each seed (of the training and of the search) two
studies of one trial at a time run side by side on one core each: random search without early stopping, and ours (TPE,
ASHA). Both try the configuration's own values first. A study that is there already is read, not run.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from raytune_m2f.config import load_config
from raytune_m2f.data import generate_shapes
from raytune_m2f.drive.runner import run_study
from raytune_m2f.study.directory import StudyDirectory, plan_of
from raytune_m2f.study.layout import new_study
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, StudySettings
from raytune_m2f.study.space import load_space

ITERATIONS = 2400
CONFIG = Path(__file__).parents[1] / "configs" / "demo.yaml"
SHORTER = ["SOLVER.MAX_ITER=300", "SOLVER.IMS_PER_BATCH=4", "TEST.EVAL_PERIOD=50", "SOLVER.CHECKPOINT_PERIOD=300"]
ARMS = ("random", "ours")


def run_arm(output: Path, arm: str, seed: int) -> None:
    """One study, to the end of its budget; begun ones go on."""
    root = output / f"{arm}-{seed}"
    if not (root / "study.yaml").exists():
        config_file = output / "demo.yaml"
        config = load_config(config_file, [*SHORTER, f"SEED={seed}"])
        ours = arm == "ours"
        settings = StudySettings(
            budget=Budget(iterations=ITERATIONS),
            sampler="tpe" if ours else "random",
            seed=seed,
            early_stopping=EarlyStopping(method="asha" if ours else "none"),
            resources=Resources(concurrent=1, cpus_per_worker=1),
        )
        new_study(root, config, load_space("demo", config), settings).create()
    run_study(root)


@dataclass(frozen=True)
class Course:
    """How a study went: after so many iterations the best AP was so much.

    Attributes:
        default: AP of the configuration's own values.
        steps: (iterations so far, best so far) at each report.
        trials: how many were started.
    """

    default: float
    steps: list[tuple[int, float]]
    trials: int

    @classmethod
    def read(cls, root: Path) -> Course:
        record = Record(StudyDirectory.at(root), plan_of(root), writable=False)
        done, best, steps = 0, 0.0, []
        trials = [trial for trial in record.trials() if trial.intermediate_values]
        for trial in trials:  # one at a time: they follow each other
            for iteration, value in sorted(trial.intermediate_values.items()):
                best = max(best, value)
                steps.append((done + iteration, best))
            done += trial.last_step or 0
        default = max(trials[0].intermediate_values.values())
        return cls(default, [step for step in steps if step[0] <= ITERATIONS], len(trials))

    @property
    def best(self) -> float:
        return self.steps[-1][1]

    def reaches(self, value: float) -> int | None:
        return next((iterations for iterations, best in self.steps if best >= value), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arm", choices=ARMS, help="run this one study only; with one seed")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if arguments.arm:
        run_arm(output, arguments.arm, arguments.seeds[0])
        return
    if not (output / "data").exists():
        generate_shapes(output / "data", seed=0)
        (output / "demo.yaml").write_text(CONFIG.read_text(encoding="utf-8"), encoding="utf-8")
    print(f"{ITERATIONS} iterations a study, {ITERATIONS // 300} whole trainings")
    print("seed   default   random search   ours    ours / default   reaches random's best after   trials")
    gains, shares = [], []
    for seed in arguments.seeds:
        options = ["--output", str(output), "--seeds", str(seed)]
        runs = [subprocess.Popen([sys.executable, "-W", "ignore", __file__, *options, "--arm", arm]) for arm in ARMS]
        codes = [run.wait() for run in runs]  # of both, before anything is said
        if any(codes):
            raise SystemExit(f"seed {seed}: a study failed")
        random, ours = (Course.read(output / f"{arm}-{seed}") for arm in ARMS)
        reached = ours.reaches(random.best)
        gains.append(ours.best / ours.default)
        shares.append((reached or ITERATIONS) / ITERATIONS)
        print(
            f"{seed:4} {ours.default:9.2f} {random.best:15.2f} {ours.best:7.2f} {gains[-1]:15.2f}   "
            f"{reached or 'never':>27}   {random.trials}, {ours.trials}",
            flush=True,
        )
    print(
        f"mean: ours / default {statistics.fmean(gains):.2f}, {100 * statistics.fmean(shares):.0f} % of the iterations"
    )


if __name__ == "__main__":
    main()
