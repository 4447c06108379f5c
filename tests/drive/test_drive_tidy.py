"""What of the checkpoints is left when trials have ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import MAX_ITER, leave_reports, new_study, open_record, report, settings

from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.drive.tidy import Tidy
from raytune_m2f.errors import DatasetError
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.training.trial_dir import write_failure

NO_STOPPING = EarlyStopping(method="none")


def record_of(root: Path, keep: int = 2, **others: Any) -> Record:
    return open_record(new_study(root, settings(trials=9, keep_checkpoints=keep, **others)))


def run(record: Record, value: float, steps: int = 8, **others: Any) -> int:
    """A trial up to an iteration, ended if that is its last."""
    number = record.ask()
    for iteration in range(10, 10 * steps + 1, 10):
        leave_reports(record.directory.trial(number), {iteration: value}, **others)
        record.absorb(number, {**report(iteration, value), **others})
    if steps == 8:
        record.settle(number, ended=True)
    return number


def files(record: Record, number: int) -> list[str]:
    return sorted(path.name for path in record.directory.weights(number).parent.iterdir())


def test_the_best_weights_are_kept_and_nothing_to_go_on_from(tmp_path: Path) -> None:
    record = record_of(tmp_path, early_stopping=NO_STOPPING)
    tidy = Tidy(record)
    for value in (5.0, 7.0, 6.0, 1.0):
        tidy.ended(record.trial(run(record, value)))
    assert [files(record, number) for number in range(4)] == [[], ["best.pth"], ["best.pth"], []]


def test_trials_that_ended_before_are_looked_through_once(tmp_path: Path) -> None:
    record = record_of(tmp_path, early_stopping=NO_STOPPING)
    for value in (5.0, 7.0, 6.0):
        run(record, value)
    record.directory.weights(0).unlink()  # a kill in the middle of a tidying: its checkpoints are still there
    Tidy(record)
    assert [files(record, number) for number in range(3)] == [[], ["best.pth"], ["best.pth"]]


def test_what_runs_waits_or_failed_is_left_alone(tmp_path: Path) -> None:
    record = record_of(tmp_path, keep=1, early_stopping=EarlyStopping(method="promotion"))
    tidy = Tidy(record)
    paused, running, failed = run(record, 1.0, steps=1), run(record, 0.5, steps=0), run(record, 0.2, steps=1)
    assert set(record.index.paused) == {paused, failed}
    write_failure(record.directory.trial(failed), DatasetError("label 9"))
    record.settle(failed, ended=True)
    tidy.ended(record.trial(failed))
    leave_reports(record.directory.trial(running), {10: 0.5})
    best = record.ask()
    leave_reports(record.directory.trial(best), {MAX_ITER: 9.0})
    record.settle(best, ended=True)
    tidy.ended(record.trial(best))
    Tidy(record)
    assert files(record, best) == ["best.pth"]
    for number in (paused, running, failed):
        assert files(record, number) == ["best.pth", "iter_0000010.pth"]


def test_the_baseline_keeps_its_weights_beside_the_best(tmp_path: Path) -> None:
    record = record_of(tmp_path, keep=1, early_stopping=NO_STOPPING)
    enqueue_points(record)
    tidy = Tidy(record)
    for value in (1.0, 5.0, 3.0):
        tidy.ended(record.trial(run(record, value)))
    assert [files(record, number) for number in range(3)] == [["best.pth"], ["best.pth"], []]


def test_a_feasible_trial_goes_before_a_better_one_that_is_not(tmp_path: Path) -> None:
    record = record_of(tmp_path, keep=1, early_stopping=NO_STOPPING, constraints=("memory_gb<=20",))
    tidy = Tidy(record)
    for value, memory in ((5.0, 30.0), (2.0, 10.0), (9.0, 21.0)):
        tidy.ended(record.trial(run(record, value, memory_gb=memory)))
    assert [files(record, number) for number in range(3)] == [[], ["best.pth"], []]


def test_a_trial_without_weights_takes_no_place_among_the_best(tmp_path: Path) -> None:
    """A successor has none if it is never better than its parent was."""
    record = record_of(tmp_path, keep=1, early_stopping=NO_STOPPING)
    tidy = Tidy(record)
    tidy.ended(record.trial(run(record, 5.0)))
    without = run(record, 9.0)
    record.directory.weights(without).unlink()
    tidy.ended(record.trial(without))
    assert files(record, 0) == ["best.pth"]


@pytest.mark.parametrize(("value", "left"), [(5.0, []), (0.5, ["best.pth", "rung_0000040.pth"])])
def test_pbt_keeps_the_rungs_of_those_that_may_have_a_successor(tmp_path: Path, value: float, left: list[str]) -> None:
    stopping = EarlyStopping(method="pbt", grace_iterations=40, reduction_factor=9)
    record = record_of(tmp_path, keep=1, early_stopping=stopping)
    tidy = Tidy(record)
    first = run(record, 1.0)
    (record.directory.weights(first).parent / "rung_0000040.pth").touch()
    tidy.ended(record.trial(first))
    assert files(record, first) == ["best.pth", "rung_0000040.pth"]  # alone, it may be the best of nine
    tidy.ended(record.trial(run(record, value)))
    assert files(record, first) == left
