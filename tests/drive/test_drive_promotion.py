"""Promotion: trials that wait at a rung, through kills, restarts and a larger budget."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from fake_processes import FakeProcesses, Killed, curve, drive, killed_after, live
from fake_study import MAX_ITER, PERIOD, leave_reports, new_study, open_record, report, settings
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import Extension, StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, EarlyStopping, StudySettings
from raytune_m2f.training.trial_dir import STOP


def promotion(trials: int = 9, factor: int = 3) -> StudySettings:
    return settings(trials=trials, early_stopping=EarlyStopping(method="promotion", reduction_factor=factor))


def driver_of(study: StudyDirectory) -> Driver:
    """Without the known-good points, of which the first would run to its end."""
    record = open_record(study)
    return Driver(record, record.reconcile())


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    return new_study(tmp_path, promotion())


def take(driver: Driver) -> int:
    handed = driver.next_trial()
    assert handed is not None
    return handed[0]


def tell(driver: Driver, number: int, iteration: int, value: float) -> bool:
    """One report; whether the trial finds the word to stop."""
    output_dir = driver.record.directory.trial(number)
    leave_reports(output_dir, {iteration: value})
    driver.on_report(number, report(iteration, value))
    return (output_dir / STOP).exists()


def paused_at_10(driver: Driver, *values: float) -> None:
    """New trials that end at the first rung."""
    numbers = [take(driver) for _ in values]
    for number, value in zip(numbers, values, strict=True):
        assert tell(driver, number, 10, value)
        driver.on_end(number)


def test_a_trial_pauses_and_goes_on_once_others_are_worse(study: StudyDirectory) -> None:
    driver = driver_of(study)
    paused_at_10(driver, 5.0, 4.0)
    assert driver.record.index.paused == {0: 10, 1: 10}
    assert [trial.state for trial in driver.record.trials()] == [TrialState.RUNNING] * 2
    third = take(driver)
    assert tell(driver, third, 10, 3.0)
    driver.on_end(third)
    assert take(driver) == 0
    assert not (study.trial(0) / STOP).exists()
    assert not tell(driver, 0, 20, 6.0)
    assert take(driver) == 3


def test_a_trial_goes_on_only_when_its_process_has_ended(study: StudyDirectory) -> None:
    """Else two processes would train it, and the first would not find the word to stop."""
    driver = driver_of(study)
    first, second, third = (take(driver) for _ in range(3))
    for number, value in ((first, 5.0), (second, 4.0), (third, 3.0)):
        tell(driver, number, 10, value)  # the first may go on now, but has not ended
    assert take(driver) == 3
    assert (study.trial(first) / STOP).exists()
    driver.on_end(first)
    assert take(driver) == first


def test_the_search_waits_for_running_trials_that_may_let_others_go_on(tmp_path: Path) -> None:
    driver = driver_of(new_study(tmp_path, promotion(trials=4)))
    numbers = [take(driver) for _ in range(3)]
    for number in numbers:
        tell(driver, number, 10, 5.0 - number)
        driver.on_end(number)
    last = [take(driver), take(driver)]  # 0, which has gone on, and 3
    assert last == [0, 3]
    assert driver.next_trial() is None
    assert not driver.finished
    assert tell(driver, 3, 10, 1.0)  # n = 4, ceil(4 / 3) = 2: the second best may go on
    driver.on_end(3)
    assert take(driver) == 1


def test_a_paused_trial_stays_paused_through_a_restart(study: StudyDirectory) -> None:
    driver = driver_of(study)
    paused_at_10(driver, 5.0, 4.0)
    (study.trial(1) / STOP).unlink()  # the kill came before the word
    again = driver_of(study)
    assert again.record.unfinished() == []
    assert again.record.index.paused == {0: 10, 1: 10}
    assert take(again) == 2


def test_a_crash_of_a_process_that_was_told_to_pause_costs_nothing(study: StudyDirectory) -> None:
    driver = driver_of(study)
    number = take(driver)
    tell(driver, number, 10, 5.0)
    driver.on_end(number, crash="killed")
    assert driver.record.index.paused == {number: 10}


def test_a_person_may_stop_a_trial_that_went_on(study: StudyDirectory) -> None:
    driver = driver_of(study)
    paused_at_10(driver, 5.0, 4.0, 3.0)
    number = take(driver)
    (study.trial(number) / STOP).touch()
    driver.on_end(number)
    assert driver.record.trial(number).state == TrialState.PRUNED


def test_more_trials_let_paused_ones_go_on(study: StudyDirectory) -> None:
    """A study at its end, extended twice: who waits goes on as the rungs fill."""
    for step in range(3):
        if step:
            plan = Extension(trials=6).of(StudyPlan.load(study.plan_file), open_record(study).usage())
            plan.save(study.plan_file)
        driver = drive(study)
        FakeProcesses(driver, random.Random(step)).run()
        assert driver.record.index.started == 9 + 6 * step
        check_ended(driver.record)


def test_last_chance_counts_all_that_are_started(tmp_path: Path) -> None:
    """Nobody would reach the end of a study of two otherwise."""
    driver = drive(new_study(tmp_path, promotion(trials=2)))
    FakeProcesses(driver, random.Random(0)).run()
    assert TrialState.COMPLETE in [trial.state for trial in driver.record.trials()]


# The end of every kind of budget

BUDGETS = {
    "iterations": Budget(iterations=400),
    "seconds": Budget(seconds=44),
    "GPU-hours": Budget(gpu_hours=44 / 3600),
}


def run_budgeted(study: StudyDirectory, seed: int, at_once: int) -> Record:
    """To the end of its budget. An iteration takes 0.1 s, of a GPU too, and trials at once do not slow each other."""
    processes: list[FakeProcesses] = []

    def clock() -> float:
        return sum(process.driver.record.usage().iterations for process in processes) / 10 / at_once

    record = open_record(study)
    enqueue_points(record)
    driver = Driver(record, record.reconcile(), gpus_per_trial=1.0, clock=clock)
    processes.append(FakeProcesses(driver, random.Random(seed), at_once))
    while driver.halted is None and processes[0].step():
        pass
    return driver.record


def budgeted(limit: str) -> StudySettings:
    """Of six trials at a rung one goes on by itself."""
    stopping = EarlyStopping(method="promotion", reduction_factor=6)
    return settings(budget=BUDGETS[limit], early_stopping=stopping, sampler="random")


def ends(record: Record) -> list[int]:
    """The trials that came to their end, the configuration's own left out."""
    complete = record.trials(TrialState.COMPLETE)
    return [t.number for t in complete if t.last_step == MAX_ITER and t.user_attrs.get("origin") != "config"]


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("limit", BUDGETS)
def test_every_budget_keeps_its_end_for_the_best(tmp_path: Path, limit: str, at_once: int) -> None:
    """By the rungs alone none of so few would come to its end."""
    record = run_budgeted(new_study(tmp_path, budgeted(limit)), 0, at_once)
    assert ends(record)
    assert len(record.trials()) >= 8
    assert record.usage().iterations <= 440 * (at_once if limit == "seconds" else 1)


def test_an_extended_study_searches_on_and_has_another_last_chance(tmp_path: Path) -> None:
    study = new_study(tmp_path, budgeted("iterations"))
    before = run_budgeted(study, 0, 1)
    first, trials = ends(before), len(before.trials())
    Extension(iterations=300).of(StudyPlan.load(study.plan_file), before.usage()).save(study.plan_file)
    after = run_budgeted(study, 1, 1)
    assert len(ends(after)) > len(first)
    assert len(after.trials()) > trials


@pytest.mark.parametrize("seed", range(2))
def test_a_last_chance_survives_kills(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(tmp_path, budgeted("iterations"))
    rng = random.Random(seed)
    while True:
        with suppress(Killed), killed_after(rng.randint(15, 60), monkeypatch):
            record = run_budgeted(study, seed, 1)
            break
    assert ends(record)
    assert 390 <= record.usage().iterations <= 400


def test_the_last_iteration_of_the_budget_ends_its_trial(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(budget=Budget(iterations=80)))
    record = run_budgeted(study, 0, 1)
    assert record.trial(0).state == TrialState.COMPLETE
    assert record.unfinished() == []


# Kills


def check_trial(record: Record, trial: FrozenTrial) -> None:
    """Its curve is whole, and what is noted of it is what the curve says."""
    steps = sorted(trial.intermediate_values)
    assert steps == list(range(PERIOD, trial.last_step + 1, PERIOD) if trial.last_step else [])
    assert all(trial.intermediate_values[step] == curve(trial.number, step) for step in steps)
    best = max(steps, key=lambda step: trial.intermediate_values[step])
    assert trial.user_attrs["best_iteration"] == best
    assert trial.user_attrs["best"]["segm/AP"] == trial.intermediate_values[best]
    assert trial.user_attrs["last"]["iteration"] == steps[-1]
    assert trial.state != TrialState.COMPLETE or trial.value == trial.intermediate_values[best]


def check_ended(record: Record) -> None:
    paused = record.index.paused
    for trial in record.trials():
        check_trial(record, trial)
        assert trial.state.is_finished() != (trial.number in paused)
        assert trial.state == (TrialState.RUNNING if trial.number in paused else TrialState.COMPLETE)
        assert trial.number not in paused or trial.last_step == paused[trial.number] < MAX_ITER
    assert record.next_up() is None
    assert record.usage().iterations == sum(trial.last_step or 0 for trial in record.trials())


@pytest.mark.parametrize("seed", range(12))
def test_a_study_goes_on_as_if_its_drivers_were_not_killed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(tmp_path, promotion(trials=7, factor=2 + seed % 2))
    driver = live(study, random.Random(seed), monkeypatch, longest=20 + 10 * seed)
    record = driver.record
    assert len(record.trials()) == record.index.started == 7
    assert record.trial(0).user_attrs["origin"] == "config"
    check_ended(record)
    size = study.journal.stat().st_size
    assert open_record(study).reconcile() == []
    assert study.journal.stat().st_size == size
