"""Population based training: who takes whose place, from which checkpoint, through kills."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from fake_processes import FakeProcesses, curve, drive, live
from fake_study import LR, PERIOD, leave_reports, new_study, open_record, report, settings, two_metrics
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.population import PERTURBED, folder_of, perturb
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping, StudySettings
from raytune_m2f.training.checkpoint import newest_first, rung_file

PBT = EarlyStopping(method="pbt", grace_iterations=20, reduction_factor=2)


def driver_of(study: StudyDirectory) -> Driver:
    """Without the known-good points, of which the first would never be replaced."""
    record = open_record(study)
    return Driver(record, record.reconcile(), gpus_per_trial=1.0)


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    return new_study(tmp_path, settings(trials=6, early_stopping=PBT))


def take(driver: Driver) -> int:
    handed = driver.next_trial()
    assert handed is not None
    return handed[0]


def train(driver: Driver, number: int, *iterations: int, value: float) -> None:
    for iteration in iterations:
        leave_reports(driver.record.directory.trial(number), {iteration: value}, keep=driver.record.index.to_keep)
        driver.on_report(number, report(iteration, value))


def leave_a_place(driver: Driver) -> tuple[int, int]:
    """Two trials, of which the worse one ends at the first rung; the better one is far ahead."""
    better, worse = take(driver), take(driver)
    train(driver, better, 10, 20, 30, 40, 50, value=9.0)
    train(driver, worse, 10, 20, value=1.0)
    driver.on_end(worse)
    return better, worse


def test_the_next_trial_takes_the_place_from_the_others_checkpoint(study: StudyDirectory) -> None:
    driver = driver_of(study)
    better, worse = leave_a_place(driver)
    stopped = driver.record.trial(worse)
    assert stopped.state == TrialState.PRUNED
    assert stopped.user_attrs["stopped"] == "replaced by a better one at 20 of 80 iterations"
    successor = driver.record.trial(take(driver))
    assert {key: successor.user_attrs[key] for key in ("origin", "parent", "start", "replaces")} == {
        "origin": "pbt",
        "parent": better,
        "start": 20,
        "replaces": worse,
    }
    own = newest_first(study.weights(successor.number).parent)
    assert [path.name for path in own] == ["iter_0000020.pth"]  # which the other itself has no more
    parent = driver.record.trial(better).params[LR]
    assert successor.params[LR] in [pytest.approx(parent * factor) for factor in (0.8, 1.25)]
    assert "parent" not in driver.record.trial(take(driver)).user_attrs


def test_only_what_a_successor_does_itself_is_counted(study: StudyDirectory) -> None:
    driver = driver_of(study)
    leave_a_place(driver)
    before = driver.record.usage()
    number = take(driver)
    driver.on_report(number, report(20, 9.0))  # a process that goes on tells the report of its checkpoint first
    assert driver.record.usage().iterations == before.iterations
    assert driver.record.usage().gpu_hours == pytest.approx(before.gpu_hours)
    train(driver, number, 30, value=9.0)
    assert driver.record.usage().iterations == before.iterations + 10
    assert driver.record.usage().gpu_hours == pytest.approx(before.gpu_hours + 1 / 3600)  # a second on one GPU
    assert driver.record.index.rungs.best(20, rounded_up=True) == [0]  # the successor was never at that rung


def test_a_successor_survives_a_kill_before_it_has_the_checkpoint(study: StudyDirectory) -> None:
    """Meanwhile its parent falls behind, and what is of no more use is deleted."""
    driver = driver_of(study)
    better, _ = leave_a_place(driver)
    number = take(driver)
    newest_first(study.weights(number).parent)[0].unlink()
    for other in [take(driver) for _ in range(3)]:
        train(driver, other, 10, 20, value=50.0 + other)
        driver.on_end(other)
    assert better not in driver.record.index.rungs.best(20, rounded_up=True)
    again = driver_of(study)
    assert take(again) == better
    assert take(again) == number
    assert newest_first(study.weights(number).parent)


def test_no_place_is_taken_twice(study: StudyDirectory) -> None:
    driver = driver_of(study)
    leave_a_place(driver)
    driver.record.study.enqueue_trial({LR: 1e-3})  # goes before the successor
    first = take(driver)
    again = driver_of(study)  # the successor is queued
    assert again.record.index.vacant == {}
    numbers = [take(again) for _ in range(4)]
    assert first in numbers
    places = [trial.user_attrs["replaces"] for trial in again.record.trials() if "replaces" in trial.user_attrs]
    assert places == [1]


def test_a_checkpoint_that_somebody_deleted_is_one_failed_trial(study: StudyDirectory) -> None:
    driver = driver_of(study)
    better, _ = leave_a_place(driver)
    driver.record.study.enqueue_trial({LR: 1e-3})
    take(driver)
    rung_file(folder_of(driver.record, better), 20).unlink()
    assert take(driver) == 4
    failed = driver.record.trial(2 + 1)
    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["error_type"] == "TrainingError"
    assert driver.halted is None


def test_without_a_checkpoint_an_ordinary_trial_takes_the_place(study: StudyDirectory) -> None:
    driver = driver_of(study)
    better, _ = leave_a_place(driver)
    rung_file(folder_of(driver.record, better), 20).unlink()
    assert "parent" not in driver.record.trial(take(driver)).user_attrs


def test_a_kill_within_the_decision_is_decided_alike(study: StudyDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(study)
    better, worse, third = take(driver), take(driver), take(driver)
    train(driver, better, 10, 20, value=9.0)
    train(driver, worse, 10, value=1.0)
    train(driver, third, 10, value=0.0)
    note = Record.note

    def killed(self: Record, trial: object, key: str, value: object) -> None:
        if key == "stopped":
            raise KeyboardInterrupt
        note(self, trial, key, value)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Record, "note", killed)
        with pytest.raises(KeyboardInterrupt):
            train(driver, worse, 20, value=1.0)
    again = open_record(study)
    again.absorb(third, report(20, 0.0))  # of three, only this one would be replaced
    assert again.reconcile() == [better]
    assert again.index.vacant == {worse: 20, third: 20}


def test_places_are_taken_with_several_metrics_too(tmp_path: Path) -> None:
    driver = driver_of(new_study(tmp_path, two_metrics(trials=6, early_stopping=PBT)))
    _, worse = leave_a_place(driver)
    assert driver.record.trial(worse).state == TrialState.COMPLETE
    assert driver.record.trial(take(driver)).user_attrs["replaces"] == worse


def test_a_parent_fits_the_space_of_its_successor(study: StudyDirectory) -> None:
    """`extend` may have narrowed it."""
    leave_a_place(driver_of(study))
    text = study.plan_file.read_text()
    assert "high: 0.01" in text
    study.plan_file.write_text(text.replace("high: 0.01", "high: 1.1e-05"))
    again = driver_of(study)
    assert take(again) == 0
    assert "parent" not in again.record.trial(take(again)).user_attrs


def test_only_learning_rates_and_loss_weights_change_and_within_their_range() -> None:
    rng = np.random.default_rng(0)
    distributions = {
        LR: FloatDistribution(1e-5, 1e-2, log=True),
        "SOLVER.WEIGHT_DECAY": FloatDistribution(0.0, 0.1),
        "MODEL.MASK_FORMER.DICE_WEIGHT": FloatDistribution(1.0, 5.0, step=1.0),
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": IntDistribution(10, 100),
    }
    values = {
        LR: 1e-2,
        "SOLVER.WEIGHT_DECAY": 0.05,
        "MODEL.MASK_FORMER.DICE_WEIGHT": 2.0,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 20,
    }
    seen = [perturb(values, distributions, rng) for _ in range(20)]
    assert {round(found[LR], 6) for found in seen} == {0.008, 0.01}
    assert {round(found["SOLVER.WEIGHT_DECAY"], 6) for found in seen} == {0.04, 0.0625}
    assert {found["MODEL.MASK_FORMER.DICE_WEIGHT"] for found in seen} == {2.0}
    assert {found["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"] for found in seen} == {20}
    assert LR in PERTURBED


# Kills


def check_population(record: Record) -> None:
    """Every place was taken at most once, from a trial that was there, and every curve is whole."""
    places = [trial.user_attrs["replaces"] for trial in record.trials() if "replaces" in trial.user_attrs]
    assert len(places) == len(set(places))
    for trial in record.trials():
        attributes = trial.user_attrs
        start = attributes.get("start", 0)
        own = sorted(step for step in trial.intermediate_values if step > start)
        assert own == list(range(start + PERIOD, (trial.last_step or 0) + 1, PERIOD))
        assert all(trial.intermediate_values[step] == curve(trial.number, step) for step in own)
        if "parent" in attributes:
            parent = record.trial(attributes["parent"])
            assert trial.intermediate_values[start] == parent.intermediate_values[start]
            assert record.trial(attributes["replaces"]).user_attrs["replaced_at"] == start
            assert attributes["inherited"] == parent_seconds(start)
            assert attributes["gpu_seconds"] == pytest.approx(attributes["last"]["seconds"] - parent_seconds(start))
        assert trial.state == (TrialState.PRUNED if "stopped" in attributes else TrialState.COMPLETE)
        assert ("replaced_at" in attributes) == ("stopped" in attributes)


def parent_seconds(iteration: int) -> float:
    return float(report(iteration, 0.0)["seconds"])


def pbt(trials: int) -> StudySettings:
    return settings(trials=trials, early_stopping=PBT)


@pytest.mark.parametrize("seed", range(12))
def test_a_study_goes_on_as_if_its_drivers_were_not_killed(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = new_study(tmp_path, pbt(trials=8))
    record = live(study, random.Random(seed), monkeypatch, longest=20 + 10 * seed).record
    assert record.index.started == len(record.trials()) == 8
    assert record.index.heirs == {}
    assert record.unfinished() == []
    check_population(record)
    assert not list(study.trials.glob("*/checkpoints/iter_*.pth"))


def test_places_are_taken_one_after_the_other_too(tmp_path: Path) -> None:
    """With one process at a time, every parent has long ended."""
    driver = drive(new_study(tmp_path, pbt(trials=12)))
    FakeProcesses(driver, random.Random(0), at_once=1).run()
    check_population(driver.record)
    assert any("parent" in trial.user_attrs for trial in driver.record.trials())
