"""The record without Ray: asking, telling, and what is left after a kill at each possible instant."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from fake_study import LR, MAX_ITER, leave_reports, new_study, open_record, report, settings
from optuna.trial import TrialState

from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import DatasetError, NonFiniteLossError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.training.trial_dir import write_failure

NO_STOPPING = EarlyStopping(method="none")


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    return new_study(tmp_path, settings(trials=6))


@pytest.fixture
def record(study: StudyDirectory) -> Record:
    return open_record(study)


def run_to(record: Record, number: int, *values: float) -> list[bool]:
    """Report at 10, 20, ... as a trial does: to its own directory first."""
    decisions = []
    for i, value in enumerate(values):
        leave_reports(record.directory.trial(number), {10 * (i + 1): value})
        decisions.append(record.absorb(number, report(10 * (i + 1), value)))
    return decisions


def test_the_value_of_a_trial_is_its_best_report(record: Record) -> None:
    number = record.ask()
    run_to(record, number, 1, 2, 9, 3, 3, 3, 3, 2)
    assert record.settle(number, ended=True) == TrialState.COMPLETE
    trial = record.trial(number)
    assert trial.value == 9
    assert trial.user_attrs["best_iteration"] == 30
    assert trial.user_attrs["best"]["segm/AP"] == 9
    assert trial.user_attrs["last"]["iteration"] == MAX_ITER
    assert trial.intermediate_values == {10 * (i + 1): v for i, v in enumerate([1, 2, 9, 3, 3, 3, 3, 2])}


def test_a_stopped_trial_is_pruned_with_its_best_value(record: Record) -> None:
    first, second = record.ask(), record.ask()
    run_to(record, first, 5, 6, 7)
    assert run_to(record, second, 5, 6, 1) == [False, False, True]
    assert record.settle(second, ended=True) == TrialState.PRUNED
    assert record.trial(second).value == 6
    assert record.trial(second).user_attrs["stopped"] == "early stopping at 30 of 80 iterations"


def test_a_known_report_changes_nothing(record: Record) -> None:
    number = record.ask()
    run_to(record, number, 1, 2)
    size = record.directory.journal.stat().st_size
    record.absorb(number, report(10, 99))
    assert record.directory.journal.stat().st_size == size


def test_nan_is_a_failure_and_never_a_score(record: Record) -> None:
    number = record.ask()
    run_to(record, number, 1)
    with pytest.raises(NonFiniteLossError, match="segm/AP is nan at iteration 20"):
        record.absorb(number, report(20, math.nan))
    leave_reports(record.directory.trial(number), {20: math.nan})
    assert record.settle(number) == TrialState.FAIL
    trial = record.trial(number)
    assert trial.value is None
    assert trial.user_attrs["error_type"] == "NonFiniteLossError"
    assert trial.intermediate_values == {10: 1}


def test_other_metrics_may_be_nan_and_the_journal_stays_json(record: Record) -> None:
    number = record.ask()
    record.absorb(number, {**report(10, 1.0), "segm/APl": math.nan})
    assert record.trial(number).user_attrs["last"]["segm/APl"] is None
    assert "NaN" not in record.directory.journal.read_text()


def test_a_failure_tells_cause_and_log(record: Record) -> None:
    number = record.ask()
    output_dir = record.directory.trial(number)
    output_dir.mkdir(parents=True)
    (output_dir / "log.txt").write_text("reading annotations\n")
    write_failure(output_dir, DatasetError("annotation 7 has label 9"))
    assert record.settle(number, ended=True) == TrialState.FAIL
    attributes = record.trial(number).user_attrs
    assert (attributes["error_type"], attributes["cause"]) == ("DatasetError", "annotation 7 has label 9")
    assert attributes["log_tail"] == ["reading annotations"]


def test_a_crash_and_a_silent_end_are_failures(record: Record) -> None:
    crashed, silent = record.ask(), record.ask()
    assert record.settle(crashed, ended=True, crash="killed") == TrialState.FAIL
    assert record.settle(silent, ended=True) == TrialState.FAIL
    assert record.trial(silent).user_attrs["error_type"] == "NoReport"


def test_a_finished_trial_that_crashes_at_its_end_keeps_its_result(record: Record) -> None:
    number = record.ask()
    run_to(record, number, *range(8))
    assert record.settle(number, ended=True, crash="killed") == TrialState.COMPLETE


# After a kill


def test_reports_that_optuna_was_not_told_are_replayed(study: StudyDirectory, record: Record) -> None:
    number = record.ask()
    run_to(record, number, 1, 2)
    leave_reports(study.trial(number), {30: 3, 40: 1})
    with (study.trial(number) / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 50, "segm/A')  # the kill
    again = open_record(study)
    assert again.reconcile() == [number]
    assert again.trial(number).intermediate_values == {10: 1, 20: 2, 30: 3, 40: 1}
    assert again.trial(number).user_attrs["best_iteration"] == 30


def test_reconciling_twice_is_the_same_as_once(study: StudyDirectory, record: Record) -> None:
    numbers = [record.ask() for _ in range(4)]
    run_to(record, numbers[0], 5, 6, 7, 8)
    leave_reports(study.trial(numbers[1]), {10 * (i + 1): float(i) for i in range(8)})  # at its end
    leave_reports(study.trial(numbers[2]), {10: 0.0})  # below the others
    again = open_record(study)
    assert again.reconcile() == [numbers[0], numbers[3]]
    states = [trial.state.name for trial in again.trials()]
    assert states == ["RUNNING", "COMPLETE", "PRUNED", "RUNNING"]
    size = study.journal.stat().st_size
    assert open_record(study).reconcile() == [numbers[0], numbers[3]]
    assert study.journal.stat().st_size == size


def test_a_decision_to_stop_survives_the_kill(study: StudyDirectory, record: Record) -> None:
    first, second = record.ask(), record.ask()
    run_to(record, first, 5)
    assert run_to(record, second, 1) == [True]  # killed before the trial heard of it
    again = open_record(study)
    assert again.reconcile() == [first]
    assert again.trial(second).state == TrialState.PRUNED


def test_a_kill_between_a_report_and_the_decision_is_decided_later(study: StudyDirectory, record: Record) -> None:
    first, second = record.ask(), record.ask()
    run_to(record, first, 5)
    assert run_to(record, second, 1) == [True]
    *before, decision = study.journal.read_bytes().splitlines(keepends=True)
    assert b"early stopping" in decision
    study.journal.write_bytes(b"".join(before))
    again = open_record(study)
    assert again.reconcile() == [first]
    assert again.trial(second).state == TrialState.PRUNED


def test_a_trial_that_was_killed_while_it_was_asked_gets_the_values_it_would_have_got(tmp_path: Path) -> None:
    whole = open_record(new_study(tmp_path / "whole"))
    expected = [whole.trial(whole.ask()).params for _ in range(2)]
    study = new_study(tmp_path / "killed")
    record = open_record(study)
    record.ask()
    record.study.ask()  # the kill comes before the values
    again = open_record(study)
    assert again.reconcile() == [0, 1]
    assert [trial.params for trial in again.trials()] == expected


def test_a_torn_journal_is_cut_and_a_stale_lock_removed(study: StudyDirectory, record: Record) -> None:
    number = record.ask()
    run_to(record, number, 1)
    with study.journal.open("a") as file:
        file.write('{"op_code":7,"worker_id":"x","tri')
    Path(f"{study.journal}.lock").touch()
    again = open_record(study)
    again.absorb(number, report(20, 2))
    assert open_record(study).trial(number).intermediate_values == {10: 1, 20: 2}


@pytest.mark.parametrize("cut", range(7, 200, 7))
def test_any_prefix_of_the_journal_can_be_resumed(tmp_path: Path, cut: int) -> None:
    """The driver may die at any byte; the trials' directories are ahead of the journal, as they are in life."""
    study = new_study(tmp_path, settings(trials=2, early_stopping=NO_STOPPING))
    record = open_record(study)
    enqueue_points(record)
    for _ in range(2):
        run_to(record, record.ask(), *range(8))
    whole = study.journal.read_bytes()
    study.journal.write_bytes(whole[: len(whole) * cut // 200])
    again = open_record(study)
    enqueue_points(again)
    again.reconcile()
    while len(again.trials(*[state for state in TrialState if state != TrialState.WAITING])) < 2:
        again.ask()
    assert again.reconcile() == []
    assert [trial.state for trial in again.trials()] == [TrialState.COMPLETE] * 2
    assert all(trial.value == 7 and len(trial.intermediate_values) == 8 for trial in again.trials())
    assert [trial.user_attrs.get("origin") for trial in again.trials()] == ["config", None]


# What is asked


def test_known_good_points_go_first_and_once(study: StudyDirectory, record: Record) -> None:
    assert enqueue_points(record) == []
    assert enqueue_points(open_record(study)) == []
    numbers = [record.ask(), record.ask()]
    assert [record.trial(n).user_attrs.get("origin") for n in numbers] == ["config", None]
    assert record.trial(0).params[LR] == record.plan.config.value(LR)


def test_a_restart_does_not_suggest_the_first_points_again(study: StudyDirectory) -> None:
    values = []
    for _ in range(4):
        record = open_record(study)  # a new driver for each trial
        values.append(record.trial(record.ask()).params[LR])
    assert len(set(values)) == 4


def test_suggestions_do_not_depend_on_restarts(tmp_path: Path) -> None:
    one = open_record(new_study(tmp_path / "a"))
    without = [one.trial(one.ask()).params for _ in range(3)]
    other = new_study(tmp_path / "b")
    restarted = [record.trial(record.ask()).params for record in (open_record(other) for _ in range(3))]
    assert without == restarted


def test_the_seed_changes_the_suggestions(tmp_path: Path) -> None:
    records = [open_record(new_study(tmp_path / str(seed), settings(seed=seed))) for seed in (1, 2)]
    values = [record.trial(record.ask()).params for record in records]
    assert values[0] != values[1]


def test_optuna_alone_can_read_the_study(study: StudyDirectory, record: Record) -> None:
    number = record.ask()
    run_to(record, number, *range(8))
    record.settle(number)
    backend = optuna.storages.journal.JournalFileBackend(str(study.journal))
    loaded = optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))
    assert loaded.study_name == "study"
    assert loaded.best_value == 7
