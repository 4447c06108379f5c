"""Heads that learn nothing: kept in the record, shown by status, and the end of a trial where that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import MAX_ITER, new_study, open_record, report, settings
from optuna.trial import TrialState

from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.lines import status_caption, trial_line
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.study.status import StudyStatus, study_status
from raytune_m2f.training.reports import Report

SOUND = {"right": 70.0, "no_object": 5.0, "largest": 50.0, "majority": 45.0, "gradient": 4.0}
DEAD = {**SOUND, "no_object": 100.0, "right": 0.0}


def told(iteration: int, vitals: dict[str, float]) -> Report:
    return {**report(iteration, 5.0), **{f"vitals/ripeness/{name}": value for name, value in vitals.items()}}


def record_of(root: Path, **stopping: Any) -> Record:
    """With one trial, the baseline, which nothing stops, already asked for."""
    study = new_study(root, settings(early_stopping=EarlyStopping(dead_heads=True, **stopping)))
    record = open_record(study)
    record.enqueue([("config", {"SOLVER.BASE_LR": 1e-4})])
    record.ask()
    return record


@pytest.mark.parametrize("method", ["none", "asha"])
def test_a_trial_ends_when_two_reports_in_a_row_say_that_a_head_is_dead(tmp_path: Path, method: Any) -> None:
    record = record_of(tmp_path, method=method)
    number = record.ask()
    stops = [record.absorb(number, told(step, vitals)) for step, vitals in ((10, DEAD), (20, SOUND), (30, DEAD))]
    assert stops == [False, False, False]
    assert record.absorb(number, told(40, DEAD))
    assert record.settle(number, ended=True) == TrialState.PRUNED
    cause = record.trial(number).user_attrs["stopped"]
    assert (
        cause == "head ripeness is dead (it says 'no object' of 100 % of the matched instances) at 40 of 80 iterations"
    )
    status = study_status(record.directory)
    assert trial_line(status.trials[number], status).endswith(f"[{cause}]")


def test_not_within_the_grace_period(tmp_path: Path) -> None:
    record = record_of(tmp_path, grace_iterations=40)
    number = record.ask()
    assert [record.absorb(number, told(step, DEAD)) for step in (10, 20, 30, 40)] == [False, False, False, True]


def test_not_the_baseline_nor_unless_asked_for(tmp_path: Path) -> None:
    record = record_of(tmp_path / "asked")
    assert not any(record.absorb(0, told(step, DEAD)) for step in range(10, MAX_ITER + 1, 10))
    record = open_record(new_study(tmp_path / "not", settings(early_stopping=EarlyStopping(method="none"))))
    number = record.ask()
    assert not any(record.absorb(number, told(step, DEAD)) for step in range(10, MAX_ITER + 1, 10))


def test_a_kill_between_the_report_and_the_decision_changes_nothing(tmp_path: Path) -> None:
    record = record_of(tmp_path, method="none")
    number = record.ask()
    assert [record.absorb(number, told(step, DEAD)) for step in (10, 20)] == [False, True]
    study = record.directory
    *before, decision = study.journal.read_bytes().splitlines(keepends=True)
    assert b"is dead" in decision
    study.journal.write_bytes(b"".join(before))
    again = open_record(study)
    again.reconcile()
    assert again.trial(number).state == TrialState.PRUNED


def shown(study: StudyDirectory) -> StudyStatus:
    return study_status(study)


def test_status_names_the_head_and_how_many_trials(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(early_stopping=EarlyStopping(method="none")))
    record = open_record(study)
    numbers = [record.ask() for _ in range(3)]
    for number in numbers[:2]:
        for step in (10, 20):
            record.absorb(number, told(step, DEAD))
    record.absorb(numbers[2], told(10, DEAD))  # once: that passes
    status = shown(study)
    words = "head ripeness: it says 'no object' of 100 % of the matched instances"
    assert [trial.symptoms for trial in status.trials] == [[words], [words], []]
    assert f"\nlearns nothing, trial 0 and 1 more: {words}\n" in status_caption(status) + "\n"
    assert StudyStatus.from_json(status.to_json()) == status


def test_status_says_how_the_heads_of_the_best_trial_stand(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    record = open_record(study)
    number = record.ask()
    record.absorb(number, told(10, SOUND))
    weights = study.weights(number)
    weights.parent.mkdir(parents=True)
    weights.touch()
    status = shown(study)
    assert status.trials[0].vitals["vitals/ripeness/gradient"] == 4.0
    assert (
        "\nin training at its latest report: head ripeness 70 % right (its commonest class is 45 %), 5 % 'no object', "
        "entropy 0 %, gradient 4 %\n"
    ) in status_caption(status) + "\n"


def test_what_passes_is_forgotten(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    record = open_record(study)
    number = record.ask()
    for step, vitals in ((10, DEAD), (20, DEAD), (30, SOUND)):
        record.absorb(number, told(step, vitals))
    assert shown(study).trials[0].symptoms == []
    assert record.trial(number).user_attrs["symptoms"] == {}
