"""Whose placement group it is, with Ray's table scripted; real ones are in test_drive_fault_leaks.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raytune_m2f.drive.ray_tune import OptunaRecordSearcher
from raytune_m2f.launch.groups import GROUP, SWEEP_S, WorkerGroups, noted_group

JOB = "01000000"
BUNDLE = {"CPU": 1.0}


class Cluster:
    """The placement groups of a cluster."""

    def __init__(self) -> None:
        self.groups: dict[str, dict[str, Any]] = {}
        self.now = 1000.0

    def watched(self, read: Callable[[int], str | None]) -> WorkerGroups:
        """A study's view of it."""
        return WorkerGroups(
            read, BUNDLE, table=lambda: self.groups, free=self.free, job=lambda: JOB, clock=lambda: self.now
        )

    def make(self, name: str, job: str = JOB, bundle: dict[str, float] = BUNDLE) -> str:
        group = name.encode().hex().ljust(28, "0") + job  # as long as Ray's
        self.groups[group] = {"state": "CREATED", "bundles": {0: dict(bundle), 1: dict(bundle)}}
        return group

    def free(self, group: str) -> bool:
        held = group in self.held
        self.groups[group]["state"] = "REMOVED"
        return held

    @property
    def held(self) -> set[str]:
        return {group for group, found in self.groups.items() if found["state"] != "REMOVED"}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def note(trials: Path, number: int, group: str) -> None:
    folder = trials / f"{number:04d}"
    folder.mkdir(exist_ok=True)
    (folder / GROUP).write_text(group)


def reader(trials: Path) -> Callable[[int], str | None]:
    return lambda number: noted_group(trials / f"{number:04d}")


def test_the_group_of_a_trial_that_has_ended_is_freed(cluster: Cluster, tmp_path: Path) -> None:
    groups = cluster.watched(reader(tmp_path))
    first, second = cluster.make("a"), cluster.make("b")
    note(tmp_path, 0, first)
    note(tmp_path, 1, second)
    assert groups.sweep({0, 1}) == 0
    assert groups.sweep({1}) == 1
    assert cluster.held == {second}
    assert groups.sweep({1}) == 0


def test_what_others_hold_is_left_alone(cluster: Cluster, tmp_path: Path) -> None:
    before = cluster.make("before")
    groups = cluster.watched(reader(tmp_path))
    others = {before, cluster.make("job", job="02000000"), cluster.make("trial", bundle={"memory": 2.0**28})}
    assert groups.sweep(()) == 0
    assert cluster.held == others


def test_a_group_that_nobody_has_noted_waits_for_those_who_may_have_made_it(cluster: Cluster, tmp_path: Path) -> None:
    groups = cluster.watched(reader(tmp_path))
    leaked = cluster.make("a")
    assert groups.sweep({0, 1}) == 0  # both are starting
    assert groups.sweep({1}) == 0  # 0 was killed, but it may be 1's
    assert groups.sweep({1, 2}) == 0
    own = cluster.make("b")
    note(tmp_path, 1, own)
    assert groups.sweep({1, 2}) == 1  # nor is it 2's, which came later
    assert cluster.held == {own}
    assert leaked not in cluster.held


def test_a_trial_that_is_handed_out_again_does_not_wait_for_its_own_group(cluster: Cluster, tmp_path: Path) -> None:
    groups = cluster.watched(reader(tmp_path))
    left, others = cluster.make("a"), cluster.make("b")
    note(tmp_path, 0, left)
    assert groups.sweep({0, 1}) == 0  # 1 is starting: `others` is its own
    assert groups.ended(0) == 1  # its process was killed
    assert groups.sweep({0, 1}) == 0  # it is handed out again, and has its old note still
    assert cluster.held == {others}
    assert groups.ended(0) == 0
    assert groups.ended(2) == 0  # it has noted none


def test_a_trial_whose_process_died_is_freed_and_counted_while_another_starts(cluster: Cluster, tmp_path: Path) -> None:
    counted: list[int] = []
    driver: Any = SimpleNamespace(
        error=None,
        running={0, 1},
        next_trial=lambda: (0, {}),
        on_end=lambda number, crash, lost: None,  # it goes on: handed out again before the sweep
        record=SimpleNamespace(note_leaks=counted.append),
    )
    searcher = OptunaRecordSearcher(driver, cluster.watched(reader(tmp_path)))
    searcher.suggest("a")
    note(tmp_path, 0, cluster.make("a"))
    searcher.on_trial_complete("a", error=True)
    assert cluster.held == set()
    assert counted == [1]


def test_tune_can_pickle_it_whatever_reads_the_notes(cluster: Cluster) -> None:
    lock = threading.Lock()  # as a study on a store has one

    def read(number: int) -> str | None:
        with lock:
            return None

    ray.cloudpickle.dumps(cluster.watched(read))


def test_a_note_that_was_cut_short_is_none(tmp_path: Path) -> None:
    note(tmp_path, 0, "")
    assert noted_group(tmp_path / "0000") is None


def test_workers_that_start_again_have_a_new_group(cluster: Cluster, tmp_path: Path) -> None:
    groups = cluster.watched(reader(tmp_path))
    note(tmp_path, 0, cluster.make("a"))
    assert groups.sweep({0}) == 0
    cluster.free(cluster.make("a"))
    again = cluster.make("b")
    assert groups.sweep({0}) == 0
    assert cluster.held == {again}


def test_a_sweep_that_is_asked_for_often_is_done_now_and_then(cluster: Cluster, tmp_path: Path) -> None:
    groups = cluster.watched(reader(tmp_path))
    assert groups.sweep((), often=True) == 0
    cluster.make("a")
    assert groups.sweep((), often=True) == 0
    cluster.now += SWEEP_S
    assert groups.sweep((), often=True) == 1
