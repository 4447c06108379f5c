"""What the driver does at each event, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import MAX_ITER, leave_reports, new_study, open_record, report, settings
from optuna.trial import TrialState

from raytune_m2f.drive.driver import Driver, Room
from raytune_m2f.errors import CheckpointError, DatasetError, TrainingError
from raytune_m2f.launch.nodes import MOST_LOSSES
from raytune_m2f.study.settings import Budget
from raytune_m2f.training.trial_dir import write_failure


def make_driver(root: Path, budget: Budget, gpus: float = 0.0, room: Room | None = None, **others: Any) -> Driver:
    record = open_record(new_study(root, settings(budget=budget)))
    return Driver(record, record.reconcile(), gpus_per_trial=gpus, room=room, **others)


class FakeRoom:
    """For so many trials; remembers what it was told at last."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.told: int | None = None

    def has_room(self, running: int) -> bool:
        self.told = None
        return running < self.trials

    def shrink_to(self, running: int) -> None:
        self.told = running


def take(driver: Driver) -> int:
    handed = driver.next_trial()
    assert handed is not None
    return handed[0]


def train(driver: Driver, number: int, *iterations: int) -> None:
    for iteration in iterations:
        leave_reports(driver.record.directory.trial(number), {iteration: float(iteration)})
        driver.on_report(number, report(iteration, float(iteration)))


def fail(driver: Driver, error: Exception) -> None:
    number = take(driver)
    output_dir = driver.record.directory.trial(number)
    output_dir.mkdir(parents=True)
    write_failure(output_dir, error)
    driver.on_end(number)


def test_trials_are_handed_out_until_the_budget_is_used(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=2))
    numbers = [take(driver), take(driver)]
    assert driver.next_trial() is None
    assert not driver.finished  # a process may die, and its trial be handed out again
    for number in numbers:
        train(driver, number, *range(10, MAX_ITER + 1, 10))
        driver.on_end(number)
    assert driver.next_trial() is None
    assert driver.finished
    assert driver.halted is None
    assert [trial.state for trial in driver.record.trials()] == [TrialState.COMPLETE] * 2


def test_unfinished_trials_go_first(tmp_path: Path) -> None:
    before = make_driver(tmp_path, Budget(trials=3))
    train(before, take(before), 10, 20)
    record = open_record(before.record.directory)
    driver = Driver(record, record.reconcile())
    assert [take(driver), take(driver), take(driver)] == [0, 1, 2]
    assert driver.next_trial() is None


def test_a_trial_that_has_to_stop_finds_a_word_in_its_directory(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=2))
    first, second = take(driver), take(driver)
    driver.on_report(first, report(10, 5.0))
    leave_reports(driver.record.directory.trial(second), {10: 1.0})
    driver.on_report(second, report(10, 1.0))
    assert (driver.record.directory.trial(second) / "stop").exists()
    driver.on_end(second)
    assert driver.record.trial(second).state == TrialState.PRUNED


def test_a_person_may_stop_a_trial(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=1))
    number = take(driver)
    train(driver, number, 10)
    (driver.record.directory.trial(number) / "stop").touch()
    driver.on_end(number)
    assert driver.record.trial(number).state == TrialState.PRUNED
    assert driver.record.trial(number).value == 10


@pytest.mark.parametrize(
    ("budget", "gpus", "reason"),
    [
        (Budget(iterations=100), 0.0, "the budget of 100 iterations is used up"),
        (Budget(gpu_hours=0.006), 2.0, "the budget of 0.006 GPU-hours is used up"),  # 10.8 s on two GPUs
    ],
)
def test_a_used_budget_halts_the_study_and_leaves_what_runs(
    tmp_path: Path, budget: Budget, gpus: float, reason: str
) -> None:
    driver = make_driver(tmp_path, budget, gpus)
    first, second = take(driver), take(driver)
    train(driver, first, 10, 20, 30, 40)
    train(driver, second, 10, 20, 30, 40, 50)
    assert driver.halted is None
    train(driver, second, 60, 70)  # a report every ten iterations and every second
    assert driver.halted == reason
    assert driver.next_trial() is None
    assert [trial.state for trial in driver.record.trials()] == [TrialState.RUNNING] * 2
    assert open_record(driver.record.directory).reconcile() == [0, 1]


def test_time_is_counted_over_drivers_and_not_between_them(tmp_path: Path) -> None:
    now = 1000.0
    first = make_driver(tmp_path, Budget(seconds=100), clock=lambda: now)
    now += 60
    first.tick()
    now += 10  # killed within the half minute in which nothing is noted
    first.tick()
    assert first.halted is None
    now += 5000
    second = Driver(open_record(first.record.directory), [], clock=lambda: now)
    now += 39
    second.tick()
    assert second.halted is None
    now += 1
    second.tick()
    assert second.halted == "the time limit of 100 seconds is reached"


def test_three_failures_alike_stop_the_study(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=9))
    for _ in range(3):
        assert driver.halted is None
        fail(driver, DatasetError("no such file"))
    assert driver.halted == "the first 3 trials all failed with DatasetError"
    assert driver.breaker is not None
    assert driver.next_trial() is None


def test_failures_that_differ_or_come_later_do_not(tmp_path: Path) -> None:
    differ = make_driver(tmp_path / "a", Budget(trials=9))
    fail(differ, DatasetError("no such file"))
    fail(differ, TrainingError("something else"))
    fail(differ, DatasetError("no such file"))
    later = make_driver(tmp_path / "b", Budget(trials=9))
    number = take(later)
    train(later, number, *range(10, MAX_ITER + 1, 10))
    later.on_end(number)
    for _ in range(4):
        fail(later, DatasetError("no such file"))
    assert differ.halted is None
    assert later.halted is None


def test_a_checkpoint_that_does_not_fit_halts_the_study_and_fails_no_trial(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=3))
    number = take(driver)
    train(driver, number, 10)
    write_failure(driver.record.directory.trial(number), CheckpointError("cannot write: no space left"))
    driver.on_end(number)
    assert isinstance(driver.error, CheckpointError)
    assert driver.next_trial() is None
    assert open_record(driver.record.directory).reconcile() == [number]


def test_no_more_trials_run_than_there_is_room_for(tmp_path: Path) -> None:
    room = FakeRoom(1)
    driver = make_driver(tmp_path, Budget(trials=3), room=room)
    first = take(driver)
    assert driver.next_trial() is None
    assert not driver.finished
    room.trials = 2  # a node has come
    second = take(driver)
    room.trials = 1  # and gone
    driver.on_end(first)
    assert driver.next_trial() is None
    driver.on_end(second)
    take(driver)
    room.trials = 9
    assert driver.next_trial() is None
    assert room.told == 1  # the nodes of the others may go


def test_a_trial_whose_process_died_is_handed_out_again_but_not_for_ever(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=1))
    number = take(driver)
    train(driver, number, 10)
    driver.on_end(number, "killed")
    assert driver.record.trial(number).state == TrialState.RUNNING
    assert take(driver) == number  # its one retry
    driver.on_end(number, "killed again")
    trial = driver.record.trial(number)
    assert (trial.state, trial.user_attrs["cause"]) == (TrialState.FAIL, "killed again")
    assert driver.next_trial() is None
    assert driver.finished


def test_a_lost_node_is_no_failure_as_long_as_there_are_reports_in_between(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=1))
    for losses in range(MOST_LOSSES):
        number = take(driver)
        train(driver, number, 10) if losses == 0 else None
        driver.on_end(number, "its node died", lost=True)
    number = take(driver)
    train(driver, number, 20)
    driver.on_end(number, "its node died", lost=True)
    for _ in range(MOST_LOSSES):
        number = take(driver)
        driver.on_end(number, "its node died", lost=True)
    trial = driver.record.trial(number)
    assert (trial.state, trial.user_attrs["node_losses"]) == (TrialState.FAIL, 2 * MOST_LOSSES + 1)
    assert "without a report in between" in trial.user_attrs["cause"]


def test_a_trial_whose_process_died_at_its_end_has_ended(tmp_path: Path) -> None:
    driver = make_driver(tmp_path, Budget(trials=1))
    number = take(driver)
    train(driver, number, *range(10, MAX_ITER + 1, 10))
    driver.on_end(number, "killed")
    assert driver.record.trial(number).state == TrialState.COMPLETE
    assert driver.next_trial() is None
