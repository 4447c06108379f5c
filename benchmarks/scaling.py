"""What a large study does to its driver, and to the cluster that waits for it.

    python benchmarks/scaling.py schedule [--trials 1000] [--nodes 100] [--report-seconds 60]
    python benchmarks/scaling.py ray [--trials 200] [--nodes 20] [--report-seconds 1]

`schedule` has a clock of its own: the trials take recorded times, the driver the time that it really takes, one event
after the other, and each event what Ray Tune adds to it (`--tune-ms`, as `ray` measures it). `ray` is a study on real
raylets on this machine whose trials only wait: what it prints per event holds for a cluster of any size with as many
events in a second.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray.cluster_utils import Cluster

from benchmarks.measure import memory_mib
from benchmarks.tuning_cost import MAX_ITER, PERIOD, Waiting, make_study, report
from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.runner import run_study
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.training.reports import append_report

RECORDED = (1.0, 1.35, 0.86, 0.89, 0.88)
"""Time between two reports of the trials of a study, relative to their first (fruits_nuts, 5 trials, 2026-11-22)."""
FIRST_START_S, NEXT_START_S = 12.0, 0.03
"""From a trial that is handed out to its first line: in a new process, and in one that is used again."""


@dataclass
class Schedule:
    """A discrete simulation: trials on slots, and one driver that handles one event at a time.

    Attributes:
        tune: seconds that Ray Tune adds to each event.
        mean: seconds between two reports of a trial.
        free: the driver is busy until then.
    """

    driver: Driver
    tune: float
    mean: float
    free: float = 0.0
    events: list[tuple[float, int]] = field(default_factory=list)
    pace: dict[int, float] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    cpu: dict[str, list[float]] = field(default_factory=lambda: {"report": [], "end": [], "next": []})
    delays: list[float] = field(default_factory=list)
    trained: float = 0.0
    random: random.Random = field(default_factory=lambda: random.Random(0))

    def run(self, slots: int) -> float:
        """Seconds on the simulation's clock from the start to the end of the last trial, but for the tail.

        The tail begins when there is a free slot and nothing left to hand out: those slots idle whatever a driver does.
        """
        for _ in range(slots):
            self._hand_out(0.0, FIRST_START_S)
        tail = 0.0
        while self.events:
            now, number = heapq.heappop(self.events)
            if self._report(now, number):
                self._do("end", now, lambda: self.driver.on_end(number))  # noqa: B023
                if not self._hand_out(now, NEXT_START_S):
                    tail = tail or now
        return tail

    def _hand_out(self, freed: float, start: float) -> bool:
        handed, done = self._do("next", freed, self.driver.next_trial)
        if handed is None:
            return False
        number = handed[0]
        self.driver.record.directory.trial(number).mkdir(parents=True, exist_ok=True)
        self.pace[number] = self.mean * self.random.choice(RECORDED)
        self.steps[number] = 0
        self.delays.append(done + start - freed)
        heapq.heappush(self.events, (done + start + self.pace[number], number))
        return True

    def _report(self, now: float, number: int) -> bool:
        """Whether the trial has ended with this report."""
        self.steps[number] += PERIOD
        self.trained += self.pace[number]
        step, folder = self.steps[number], self.driver.record.directory.trial(number)
        told = report(step, number % 37 * step / MAX_ITER + self.random.random())
        append_report(folder, told)
        _, done = self._do("report", now, lambda: self.driver.on_report(number, told))
        if step >= MAX_ITER or (folder / "stop").exists():
            return True
        heapq.heappush(self.events, (done + self.pace[number], number))
        return False

    def _do(self, kind: str, now: float, action: Callable[[], Any]) -> tuple[Any, float]:
        """Let the driver act as soon as it is free; returns what it said, and when."""
        begun = time.perf_counter()
        result = action()
        took = time.perf_counter() - begun
        self.cpu[kind].append(took)
        self.free = max(now, self.free) + took + self.tune
        return result, self.free


def schedule(trials: int, nodes: int, report_seconds: float, tune_ms: float) -> None:
    """Simulate, and print what the driver and the slots did."""
    with tempfile.TemporaryDirectory() as folder:
        study = make_study(folder, trials, stopping=True)
        before = memory_mib()
        driver = Driver(Record(study, StudyPlan.load(study.plan_file)), [])
        simulation = Schedule(driver, tune_ms / 1000, report_seconds)
        begun = time.process_time()
        end = simulation.run(nodes)
        cpu = time.process_time() - begun
        busy = sum(map(sum, simulation.cpu.values())) + simulation.tune * sum(map(len, simulation.cpu.values()))
        later = simulation.delays[nodes:]
        print(f"{trials} trials, {nodes} at once, a report of each every {report_seconds:g} s on average")
        print(f"until the queue is empty {end:.0f} s, the driver busy {100 * busy / end:.1f} % of it; {cpu:.1f} s CPU")
        for kind, times in simulation.cpu.items():
            print(f"  {kind:6} {len(times):6} times, median {1000 * statistics.median(times):5.1f} ms", end=", ")
            print(f"99 % below {1000 * sorted(times)[int(0.99 * len(times))]:.1f} ms")
        print(f"from a free slot to the next first line: {spread(later)}")
        idle = sum(later) / (sum(later) + simulation.trained)
        print(f"idle slots: {100 * idle:.2f} % (from the second trial of a slot on)")
        begun = time.process_time()
        Record(study, StudyPlan.load(study.plan_file)).reconcile()
        print(f"to read the record again, as `resume` does: {time.process_time() - begun:.1f} s CPU")
        journal = study.journal.stat().st_size / 2**20
        print(f"the driver's memory: +{memory_mib() - before:.0f} MiB; journal {journal:.1f} MiB")


def on_ray(trials: int, nodes: int, report_seconds: float) -> None:
    """A study on `nodes` raylets of one CPU each, on this machine."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with tempfile.TemporaryDirectory() as folder:
            study = make_study(folder, trials, stopping=False)
            start, cpu = time.time(), time.process_time()
            run_study(study.root, address=cluster.address, trial_function=Waiting(report_seconds * MAX_ITER / PERIOD))
            end, cpu = time.time(), time.process_time() - cpu
            spans = [json.loads((study.trial(number) / "spans.json").read_text()) for number in range(trials)]
    finally:
        cluster.shutdown()
    begun, ended = sorted(span["begun"] for span in spans), sorted(span["ended"] for span in spans)
    events = trials * (MAX_ITER // PERIOD + 2)
    gaps = [later - before for later, before in zip(begun[nodes:], ended, strict=False)]
    print(f"{trials} trials on {nodes} nodes, a report of each every {report_seconds:g} s: {end - start:.0f} s")
    print(
        f"start of the first trial {begun[0] - start:.0f} s, of the last node's first {begun[nodes - 1] - start:.0f} s"
    )
    print(f"from a free slot to the next first line: {spread(gaps)}")
    waits = report_seconds * MAX_ITER / PERIOD
    late = [(span["ended"] - span["begun"] - waits) / (MAX_ITER / PERIOD) for span in spans]
    print(f"until a report is noted and the trial goes on: {spread(late)}")
    print(f"driver: {cpu:.0f} s CPU, {1000 * cpu / events:.1f} ms an event ({events} events), {memory_mib():.0f} MiB")
    print(f"processes of the trials: {len({span['process'] for span in spans})}")


def spread(seconds: list[float]) -> str:
    return f"median {statistics.median(seconds):.2f} s, most {max(seconds):.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("schedule", "ray"))
    parser.add_argument("--trials", type=int)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--report-seconds", type=float)
    parser.add_argument("--tune-ms", type=float, default=5.0, help="what Ray Tune adds to an event, for `schedule`")
    given = parser.parse_args()
    if given.what == "schedule":
        schedule(given.trials or 1000, given.nodes or 100, given.report_seconds or 60.0, given.tune_ms)
    else:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        on_ray(given.trials or 200, given.nodes or 20, given.report_seconds or 1.0)


if __name__ == "__main__":
    main()
