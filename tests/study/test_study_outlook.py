"""What a study has still to do, as `status` tells it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_study import MAX_ITER, new_study, open_record, report, settings

from raytune_m2f.progress import ProgressFile
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, EarlyStopping
from raytune_m2f.study.status import StudyStatus, has_work, seconds_left, study_status

NO_STOPPING = EarlyStopping(method="none")


def run(record: Record, end: int = MAX_ITER) -> int:
    number = record.ask()
    for iteration in range(10, end + 1, 10):
        record.absorb(number, report(iteration, 1.0))
    record.settle(number)
    return number


def test_a_killed_study_is_resumable_and_a_running_or_complete_one_is_not(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=1, early_stopping=NO_STOPPING))
    record = open_record(study)
    number = run(record, end=30)
    assert study_status(study.root).resumable
    with study.locked():
        assert not study_status(study.root).resumable
    for iteration in range(40, MAX_ITER + 1, 10):
        record.absorb(number, report(iteration, 1.0))
    record.settle(number)
    assert not study_status(study.root).resumable


def test_trials_that_have_not_begun_are_work(tmp_path: Path) -> None:
    record = open_record(new_study(tmp_path, settings(trials=2, early_stopping=NO_STOPPING)))
    run(record)
    assert has_work(record)
    run(record)
    assert not has_work(record)


def test_a_spent_budget_leaves_no_work_to_an_unfinished_trial(tmp_path: Path) -> None:
    record = open_record(new_study(tmp_path, settings(budget=Budget(iterations=30), early_stopping=NO_STOPPING)))
    run(record, end=30)
    assert record.unfinished() == [0]
    assert not has_work(record)


def test_the_time_left_follows_from_the_rate_so_far(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=4, early_stopping=NO_STOPPING))
    record = open_record(study)
    assert seconds_left(record) is None  # no rate yet
    run(record)
    run(record, end=20)
    record.note_session("driver", 50.0)  # 100 iterations: 2 a second
    assert seconds_left(record) == pytest.approx(((MAX_ITER - 20) + 2 * MAX_ITER) / 2)
    with study.locked():
        status = study_status(study.root)
    assert json.loads(status.to_json())["seconds_left"] == status.seconds_left == seconds_left(record)
    assert StudyStatus.from_json(status.to_json()) == status
    assert study_status(study.root).seconds_left is None  # nobody works on it


def test_the_first_limit_counts(tmp_path: Path) -> None:
    budget = Budget(trials=100, iterations=200, seconds=60.0)
    record = open_record(new_study(tmp_path, settings(budget=budget, early_stopping=NO_STOPPING)))
    assert seconds_left(record) == 60
    run(record, end=80)
    record.note_session("driver", 20.0)  # 4 a second
    assert seconds_left(record) == pytest.approx((200 - 80) / 4)
    record.note_session("driver", 50.0)
    assert seconds_left(record) == pytest.approx(10.0)


def test_trials_to_come_are_taken_to_be_as_long_as_those_that_ended(tmp_path: Path) -> None:
    record = open_record(new_study(tmp_path, settings(trials=3)))
    run(record)
    stopped = record.ask()
    record.absorb(stopped, report(10, 0.0))
    assert record.settle(stopped) is not None
    record.note_session("driver", 90.0)
    assert seconds_left(record) == pytest.approx((MAX_ITER + 10) / 2)


def test_iterations_since_the_last_report_count(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=1, early_stopping=NO_STOPPING))
    record = open_record(study)
    number = record.ask()
    record.note_session("driver", 10.0)
    study.trial(number).mkdir(parents=True)
    ProgressFile(study.trial(number))(5, MAX_ITER)  # half an iteration a second, before any report
    assert seconds_left(record) == pytest.approx((MAX_ITER - 5) / 0.5)
    record.absorb(number, report(10, 1.0))  # later than what the file says
    assert seconds_left(record) == pytest.approx(MAX_ITER - 10)


def test_before_a_trial_has_ended_asha_is_expected_to_stop_most(tmp_path: Path) -> None:
    stopping = EarlyStopping(grace_iterations=10, reduction_factor=4)  # rungs at 10 and 40
    record = open_record(new_study(tmp_path, settings(trials=3, early_stopping=stopping)))
    number = record.ask()
    record.absorb(number, report(10, 1.0))
    record.note_session("driver", 10.0)
    expected = 10 + 30 / 4 + (MAX_ITER - 40) / 16
    assert seconds_left(record) == pytest.approx((expected - 10) + 2 * expected)
