"""Methods of search compared by replaying studies on a table of real learning curves: thousands of them in minutes.

    python -m benchmarks.replay shapes [--arms random auto] [--studies 200] [--trainings 10] [--processes 2]
    python -m benchmarks.replay nuclei --points DIR/points ...    # a table that is still being made

A study of an arm suggests a point, and gets the nearest point of the table (`curves.py`) that it has not tried yet. Its
curve is told report by report, of one of the seeds that it was trained under. Suggestions, rungs and promotion are
those of the product; nothing is trained. The configuration's own values come first in every arm and are never stopped;
with promotion they wait like others, and are brought to their end.

At each moment a study is scored by the test AP of the checkpoint that it would export, the one with the best validation
AP so far: the mean over the seeds of that point and iteration, so that luck is not rewarded. Regret is 1 at the
configuration's own and 0 at the best point's. An arm's studies and another's share their seeds: the same suggestions of
random search, and the same curve of each point.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks.curves import CONFIG, TABLES, TASKS, rows_of, space_of
from raytune_m2f.config import load_config
from raytune_m2f.study.record.promotion import Promotion
from raytune_m2f.study.record.rungs import Rungs, default_grace, judge, rung_iterations
from raytune_m2f.study.record.samplers import MOST_CURVES, make_sampler
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.curves import numbered_curves
from raytune_m2f.study.search.promise import promises
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.climb import climbed
from raytune_m2f.training.objective import Objective

Floats = NDArray[np.float64]
FACTOR, DRAWS = 3, 1000
EARLIER = 1_000_000
"""Seeds of earlier studies are so much higher."""
OWED = (0,)
"""The configuration's own values."""
METRIC = Objective.parse("segm/AP")
AGAINST = ("random", "random_asha", "old")
"""Each arm is compared with these."""


@dataclass(frozen=True)
class Arm:
    """A method of search.

    Attributes:
        sampler: a kind of `make_sampler`, or "old": our default until November 2026, TPE after 10 random trials.
        stopping: `none`, `asha` or `promotion`.
    """

    sampler: str
    stopping: str


ARMS = {
    "random": Arm("random", "none"),
    "random_asha": Arm("random", "asha"),
    "random_promotion": Arm("random", "promotion"),
    "old": Arm("old", "asha"),
    "tpe": Arm("tpe", "promotion"),
    "gp": Arm("gp", "promotion"),
    "auto": Arm("auto", "promotion"),
    "auto_asha": Arm("auto", "asha"),
}


# Tables


@dataclass(frozen=True)
class Point:
    """A point of a table, of S seeds and R reports.

    Attributes:
        values: of the space's keys.
        val: (S, R) validation AP at each report.
        test: (S, R) test AP.
        loss: (S, R) validation loss. It stands for the training loss, of which a table has no comparable one.
    """

    values: Mapping[str, Any]
    val: Floats
    test: Floats
    loss: Floats

    @property
    def at(self) -> Floats:
        """(R,): mean test AP of the checkpoint of each report."""
        return np.asarray(self.test.mean(0))

    @property
    def final(self) -> float:
        """Mean test AP of the checkpoints with the best validation AP."""
        return float(np.take_along_axis(self.test, self.val.argmax(1)[:, None], 1).mean())


@dataclass(frozen=True)
class Table:
    """Real learning curves.

    Attributes:
        name: of the table, in `curves.TASKS`.
        space: that the points are of.
        iterations: (R,) of the reports; the last is the end of a training.
        points: the configuration first.
        start: the number in `points` that studies take for the configuration's own values.
    """

    name: str
    space: SearchSpace
    iterations: tuple[int, ...]
    points: tuple[Point, ...]
    start: int = 0

    @classmethod
    def read(cls, name: str, sources: Iterable[Path]) -> Table:
        """A table of collected JSON files and folders of points; what comes in several is taken once."""
        rows: dict[tuple[int, int], dict[str, Any]] = {}
        for source in sources:
            for row in rows_of(source):
                rows.setdefault((row["point"], row["seed"]), row)
        space, own = space_of(TASKS[name]), own_values(name)
        iterations = tuple(report["iteration"] for report in rows[CONFIG, 0]["reports"])
        found: dict[int, list[dict[str, Any]]] = {}
        for (number, _), row in sorted(rows.items()):
            if len(row["reports"]) == len(iterations):
                found.setdefault(number, []).append(row)
        points = [
            Point(
                own if number == CONFIG else of_point[0]["values"],
                *(
                    np.array([[report[column] for report in row["reports"]] for row in of_point])
                    for column in ("AP", "test AP", "loss")
                ),
            )
            for number, of_point in sorted(found.items())
        ]
        return cls(name, space, iterations, tuple(points))

    @property
    def max_iter(self) -> int:
        return self.iterations[-1]

    @property
    def period(self) -> int:
        return self.iterations[0]

    @property
    def own(self) -> Mapping[str, Any]:
        """What studies take for the configuration's own values."""
        return self.points[self.start].values

    @property
    def best(self) -> float:
        """Test AP of the best point."""
        return max(point.final for point in self.points)

    def moved(self, decades: float) -> Table:
        """The same table, of a configuration whose learning rate is so many decades higher."""
        key = "SOLVER.BASE_LR"
        wrong = {**self.own, key: self.own[key] * 10**decades}
        axes = Axes.of(self.space, self.own)
        distance = np.square(axes.features([point.values for point in self.points]) - axes.features([wrong])).sum(1)
        return replace(self, start=int(np.argmin(distance)))


def own_values(name: str) -> dict[str, Any]:
    """The values of the searched keys in a table's configuration."""
    config = load_config(TASKS[name].config, TASKS[name].overrides)
    return {key: config.value(key) for key in TASKS[name].space}


# A study


def sampler_of(kind: str, axes: Axes, max_iter: int, seed: int, started: int) -> BaseSampler:
    """The sampler of one suggestion, as the record of a study makes it."""
    if kind == "old":
        stream = int(np.random.SeedSequence([seed, started]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return TPESampler(seed=stream, n_startup_trials=10, multivariate=True, group=True, constant_liar=True)
    return make_sampler(kind, seed, started, axes, max_iter)


@dataclass
class Replay:
    """One study on a table.

    Attributes:
        table: that it is replayed on.
        arm: its method.
        seed: of the search and of which curve a point has.
        budget: iterations over all trials.
        at_once: trials at once, each as fast as the others.
        earlier: trials of an earlier study, which the sampler learns from; the best is tried second.
        course: (iterations so far, test AP of the checkpoint to export) at each report.
        seconds: CPU time that suggestions, and promises at rungs, took.
    """

    table: Table
    arm: Arm
    seed: int
    budget: int
    at_once: int = 1
    earlier: Sequence[FrozenTrial] = ()
    course: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    used: int = 0

    def __post_init__(self) -> None:
        table = self.table
        grace = default_grace(table.max_iter, table.period, self.arm.stopping)
        self.rungs = Rungs(rung_iterations(self.arm.stopping, grace, FACTOR, table.max_iter), FACTOR)
        self.study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
        self.study.add_trials(self.earlier)
        self.study.enqueue_trial(dict(table.own), user_attrs={"origin": "config"})
        if self.earlier:
            best = max(self.earlier, key=lambda trial: trial.values[0])
            self.study.enqueue_trial(best.params, user_attrs={"origin": "earlier"})
        self.axes = Axes.of(table.space, table.own)
        self.places = self.axes.features([point.values for point in table.points])
        self.unused = np.ones(len(table.points), bool)
        self.chosen: list[int] = []  # the point of each trial
        self.reports: list[int] = []  # how many each trial has had
        self.running: set[int] = set()
        self.waiting: dict[int, int] = {}
        self.passed: dict[int, int] = {}
        self.best = (-math.inf, 0.0)  # validation, test
        self.promised: tuple[tuple[int, int], Rungs] | None = None  # and the moment that they are of
        random = np.random.default_rng(self.seed)
        self.seeds = [int(random.integers(len(point.val))) for point in table.points]

    def run(self) -> Replay:
        """To the end of the budget."""
        events: list[tuple[int, int, int]] = []  # time, order, trial
        now = order = 0
        while self.used < self.budget:
            while len(events) < self.at_once and (number := self.next_trial()) is not None:
                heapq.heappush(events, (now + self.cost(number), order := order + 1, number))
                self.running.add(number)
            if not events:
                break
            now, _, number = heapq.heappop(events)
            self.running.discard(number)
            if self.report(number):
                self.running.add(number)
                heapq.heappush(events, (now + self.cost(number), order := order + 1, number))
        return self

    def cost(self, number: int) -> int:
        """Iterations to a trial's next report."""
        done = self.reports[number]
        return self.table.iterations[done] - (self.table.iterations[done - 1] if done else 0)

    def promotion(self) -> Promotion:
        """The rule of this moment."""
        left, rungs = self.budget - self.used, self.rungs
        if self.arm.sampler == "auto" and len(self.chosen) < MOST_CURVES:
            rungs = self.promised_rungs()
        return Promotion(
            rungs,
            self.table.max_iter,
            left=left,
            may_start=bool(self.unused.any()),
            owed=OWED,
            by_promise=rungs is not self.rungs,
        )

    def promised_rungs(self) -> Rungs:
        """The rungs, at which trials are compared by what they promise; as `Record` does."""
        now = self.used, len(self.chosen)
        if self.promised is None or self.promised[0] != now:
            started, max_iter = time.process_time(), self.table.max_iter
            found = promises(self.axes, numbered_curves(self.study.get_trials(deepcopy=False)), max_iter)
            here = {number - len(self.earlier): promise for number, promise in found.items()}
            self.promised = now, self.rungs.by(here) if found else self.rungs
            self.seconds += time.process_time() - started
        return self.promised[1]

    def ways(self) -> list[tuple[int, int]]:
        """What the trials that are under way still have to train: to their next rungs, and to their ends."""
        whole, found = self.table.max_iter, []
        for number in self.running:
            done = self.done(number)
            rungs = [] if number in OWED else [rung for rung in self.rungs.iterations if rung > done]
            found.append((min([*rungs, whole]) - done, whole - done))
        return found

    def done(self, number: int) -> int:
        """Iterations that a trial has trained."""
        return self.table.iterations[self.reports[number] - 1] if self.reports[number] else 0

    def next_trial(self) -> int | None:
        """One that may go on, or a new one; None where there is none now."""
        chosen: int | str | None = "new"
        if self.arm.stopping == "promotion":
            chosen = self.promotion().next_up(self.waiting, self.ways())
        if isinstance(chosen, int):
            self.passed[chosen] = self.waiting.pop(chosen)
            return chosen
        return self.ask() if chosen == "new" and self.unused.any() else None

    def ask(self) -> int:
        """A new trial: the point of the table that is nearest to what is suggested."""
        started = time.process_time()
        max_iter, number = self.table.max_iter, len(self.chosen)
        self.study.sampler = sampler_of(self.arm.sampler, self.axes, max_iter, self.seed, number)
        trial = self.study.ask()
        suggested = self.table.space.suggest(trial)
        self.seconds += time.process_time() - started
        if not self.chosen:
            point = self.table.start
        else:
            distance = np.square(self.places - self.axes.features([suggested])).sum(1)
            point = int(np.argmin(np.where(self.unused, distance, np.inf)))
        self.unused[point] = False
        for key, distribution in self.table.space.distributions.items():
            internal = distribution.to_internal_repr(self.table.points[point].values[key])
            self.study._storage.set_trial_param(trial._trial_id, key, internal, distribution)
        self.chosen.append(point)
        self.reports.append(0)
        return trial.number - len(self.earlier)

    def report(self, number: int) -> bool:
        """Tell a trial's next report; returns whether the trial goes on."""
        table, storage = self.table, self.study._storage
        point, done = table.points[self.chosen[number]], self.reports[number]
        seed, identifier = self.seeds[self.chosen[number]], len(self.earlier) + number
        self.used += self.cost(number)
        step, value = table.iterations[done], float(point.val[seed, done])
        self.reports[number] += 1
        if value > self.best[0]:
            self.best = value, float(point.at[done])
        self.course.append((self.used, self.best[1]))
        storage.set_trial_intermediate_value(identifier, step, value)  # in memory a trial's identifier is its number
        score = climbed(METRIC, {METRIC.text: value, "loss": float(point.loss[seed, done])}, {}, {})
        if score != value:
            before = self.study.get_trials(deepcopy=False)[identifier].user_attrs.get("climbed", {})
            storage.set_trial_user_attr(identifier, "climbed", {**before, str(step): score})
        self.rungs.note(number, step, score)
        best = float(point.val[seed, : done + 1].max())
        if step >= table.max_iter:
            storage.set_trial_state_values(identifier, TrialState.COMPLETE, [best])
            return False
        if self.arm.stopping == "none" or (number in OWED and self.arm.stopping == "asha"):
            return True
        rung = self.rung_to_leave(number)
        if rung is None:
            self.passed[number] = max([self.passed.get(number, 0), *self.rungs.reached(number)])
        elif self.arm.stopping == "promotion":
            self.waiting[number] = rung
        else:
            storage.set_trial_state_values(identifier, TrialState.PRUNED, [best])
        return rung is None

    def rung_to_leave(self, number: int) -> int | None:
        """The rung at which a trial pauses, or ends, after its latest report; None if it goes on."""
        passed = self.passed.get(number, 0)
        if self.arm.stopping != "promotion":
            return judge(self.arm.stopping, self.rungs, number, passed=passed)
        highest = max((rung for rung in self.rungs.reached(number) if rung > passed), default=None)
        if highest is None or self.promotion().goes_on(number, highest, self.waiting, self.ways()):
            return None
        return highest


def earlier_trials(table: Table, other: Table, seed: int, *, reverse: bool) -> list[FrozenTrial]:
    """A study of random points and ASHA on another table, as `--from` gives it to one on `table`.

    Args:
        reverse: turn its scores round: the best are the worst.
    """
    own = own_values(table.name)  # of keys that the earlier study did not search
    study = Replay(other, ARMS["random_asha"], seed + EARLIER, 10 * other.max_iter).run()
    found = []
    for number, (point, reports) in enumerate(zip(study.chosen, study.reports, strict=True)):
        values = {key: other.points[point].values.get(key, own[key]) for key in table.space.entries}
        if not reports or table.space.contains(values):
            continue
        val = other.points[point].val[study.seeds[point], :reports]
        scores = (max(one.val.max() for one in other.points) - val if reverse else val).tolist()
        steps = [round(step * table.max_iter / other.max_iter) for step in other.iterations[:reports]]
        found.append(
            create_trial(
                state=TrialState.COMPLETE if reports == len(other.iterations) else TrialState.PRUNED,
                values=[max(scores)],
                params=values,
                distributions=table.space.distributions,
                intermediate_values=dict(zip(steps, scores, strict=True)),
                user_attrs={"prior": f"trial {number} of {other.name}"},
            )
        )
    return found


# Many studies


@dataclass(frozen=True)
class Setting:
    """What is replayed.

    Attributes:
        task, sources, moved: of the table; see `Table.read` and `Table.moved`.
        trainings: the budget, in whole trainings.
        at_once: trials at once.
        earlier: of the table of an earlier study, `reversed` or `same` for this table itself; see `earlier_trials`.
    """

    task: str
    sources: tuple[Path, ...]
    trainings: int = 10
    at_once: int = 1
    moved: float = 0.0
    earlier: str = ""

    def table(self) -> Table:
        table = Table.read(self.task, self.sources)
        return table.moved(self.moved) if self.moved else table

    def earlier_table(self) -> Table:
        if self.earlier in TASKS:
            return Table.read(self.earlier, sources_of(self.earlier))
        return Table.read(self.task, self.sources)


_tables: dict[Setting, tuple[Table, Table]] = {}  # of a process


def replayed(work: tuple[Setting, str, int]) -> tuple[str, int, list[float], int, float]:
    """Arm, seed, test AP at each multiple of the reports' period, trials, seconds of suggestions."""
    setting, arm, seed = work
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if setting not in _tables:
        _tables[setting] = setting.table(), setting.earlier_table()
    table, other = _tables[setting]
    budget = setting.trainings * table.max_iter
    known = earlier_trials(table, other, seed, reverse=setting.earlier == "reversed") if setting.earlier else []
    study = Replay(table, ARMS[arm], seed, budget, setting.at_once, known).run()
    grid = np.arange(table.period, budget + 1, table.period)
    steps, scores = np.array(study.course).T
    place = np.searchsorted(steps, grid, side="right") - 1
    return arm, seed, np.where(place < 0, 0.0, scores[place]).tolist(), len(study.chosen), study.seconds


def replay_all(setting: Setting, arms: Sequence[str], seeds: Sequence[int], processes: int) -> dict[str, Any]:
    """{arm: {"AP": (N, G) of each study and moment, "trials", "suggestion"}}; the same seeds in the same order."""
    works = [(setting, arm, seed) for seed in seeds for arm in arms]
    found: dict[str, list[Any]] = {arm: [] for arm in arms}
    if processes == 1:
        rows = [replayed(work) for work in works]
    else:
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            rows = list(pool.imap(replayed, works, chunksize=4))
    for arm, *rest in rows:
        found[arm].append(rest)
    return {
        arm: {
            "AP": np.array([scores for _, scores, _, _ in of_arm]),
            "trials": float(np.mean([trials for *_, trials, _ in of_arm])),
            "seconds": sum(seconds for *_, seconds in of_arm) / sum(trials for *_, trials, _ in of_arm),
        }
        for arm, of_arm in found.items()
    }


# What comes of it


def interval(scores: Floats) -> tuple[Floats, Floats]:
    """(G,) ends of the 95 % interval of the mean over studies (N, G), by the bootstrap."""
    N = len(scores)
    weights = np.random.default_rng(0).multinomial(N, np.full(N, 1 / N), DRAWS) / N
    low, high = np.percentile(weights @ scores, [2.5, 97.5], axis=0)
    return low, high


def first_above(scores: Floats, bar: float, grid: NDArray[Any]) -> int | None:
    """The moment from which on scores (G,) stay at `bar` or above; None: there is none."""
    below = np.flatnonzero(scores < bar)
    after = int(below[-1]) + 1 if len(below) else 0
    return int(grid[after]) if after < len(grid) else None


def summary(table: Table, found: Mapping[str, Any], trainings: int) -> dict[str, Any]:
    """Means, intervals, paired differences and how soon each arm is where others end."""
    grid = np.arange(table.period, trainings * table.max_iter + 1, table.period)
    worst, best = table.points[0].final, table.best
    bars = {arm: float(found[arm]["AP"].mean(0)[-1]) for arm in AGAINST if arm in found}
    arms: dict[str, Any] = {}
    for arm, of_arm in found.items():
        scores = of_arm["AP"]
        low, high = interval(scores)
        arms[arm] = {
            "AP": scores.mean(0),
            "AP_low": low,
            "AP_high": high,
            "regret": (best - scores.mean(0)) / (best - worst),
            "regret_low": (best - high) / (best - worst),
            "regret_high": (best - low) / (best - worst),
            "trials": of_arm["trials"],
            "seconds": of_arm["seconds"],
            "against": {},
        }
        for other, bar in bars.items():
            difference = scores - found[other]["AP"]
            low, high = interval(difference)
            ends = [first_above(row, bar, grid) for row in scores]
            arms[arm]["against"][other] = {
                "difference": difference.mean(0),
                "low": low,
                "high": high,
                "mean_reaches": first_above(scores.mean(0), bar, grid),
                "median_reaches": int(np.median(reached)) if (reached := [e for e in ends if e is not None]) else None,
                "censored": ends.count(None) / len(ends),
            }
    return {"iterations": grid, "config": worst, "best": best, "points": len(table.points), "arms": arms}


def lines(result: Mapping[str, Any], max_iter: int) -> Iterable[str]:
    """The result as text."""
    grid, arms = result["iterations"], result["arms"]
    whole = [n for n in (1, 2, 3, 5, 8, 10, 15, 20) if n * max_iter <= grid[-1]]
    at = [int(np.searchsorted(grid, n * max_iter)) for n in whole]
    yield f"test AP: configuration {result['config']:.1f}, best {result['best']:.1f} of {result['points']} points"
    yield f"{'regret after trainings':22}" + "".join(f"{n:7}" for n in whole) + "   AP at the end   trials   s/trial"
    for arm, of in arms.items():
        half = (of["AP_high"][-1] - of["AP_low"][-1]) / 2
        yield (
            f"{arm:22}" + "".join(f"{of['regret'][i]:7.3f}" for i in at) + f"   {of['AP'][-1]:6.2f} +- {half:.2f}"
            f"{of['trials']:9.1f}{of['seconds']:10.3f}"
        )
    for other in next(iter(arms.values()))["against"]:
        yield ""
        yield f"AP - {other}'s after" + "".join(f"{n:14}" for n in whole) + f"   reaches {other}'s end   never"
        for arm, of in arms.items():
            if arm != other:
                one = of["against"][other]
                cells = [f"{one['difference'][i]:+6.2f} +-{(one['high'][i] - one['low'][i]) / 2:5.2f}" for i in at]
                reached = one["mean_reaches"]
                share = "never" if reached is None else f"{reached} ({reached / grid[-1]:.2f})"
                yield f"{arm:22}" + "".join(cells) + f"   {share:>15}   {100 * one['censored']:.0f} %"


def rounded(value: Any) -> Any:
    """As JSON, with 4 digits behind the point."""
    if isinstance(value, Mapping):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return [rounded(one) for one in value.tolist()]
    return round(value, 4) if isinstance(value, float) else value


def sources_of(name: str) -> tuple[Path, ...]:
    """Where a table is by itself: collected."""
    return (TABLES / f"{name}.json",)


def main(words: Sequence[str] | None = None, say: Callable[[str], object] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--points", type=Path, nargs="+", help="folders of points, in place of the collected table")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="seed of the first study")
    parser.add_argument("--trainings", type=int, default=10, help="the budget, in whole trainings")
    parser.add_argument("--at-once", type=int, default=1, help="trials at once")
    parser.add_argument("--center-moved", type=float, default=1.0, help="factor on the configuration's learning rate")
    parser.add_argument(
        "--from",
        dest="earlier",
        default="",
        choices=[*TASKS, "same", "reversed"],
        help="the table of an earlier study; reversed: this one, with its scores turned round",
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON with everything")
    given = parser.parse_args(words)
    sources = tuple(given.points or sources_of(given.task))
    moved = math.log10(given.center_moved)
    setting = Setting(given.task, sources, given.trainings, given.at_once, moved, given.earlier)
    started, seeds = time.monotonic(), range(given.first, given.first + given.studies)
    found = replay_all(setting, given.arms, seeds, given.processes)
    table = setting.table()
    result = summary(table, found, given.trainings)
    for line in lines(result, table.max_iter):
        say(line)
    say(f"{given.studies} studies an arm in {time.monotonic() - started:.0f} s")
    if given.output:
        given.output.write_text(json.dumps(rounded(result)), encoding="utf-8")


if __name__ == "__main__":
    main()
