"""A study whose metric is flat: rungs and search compare what is climbed, and the record's values stay the metric."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_study import leave_reports, new_study, open_record, report, settings

from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.record import Record
from raytune_m2f.study.search.curves import curves_of
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.training.climb import FLAT

LOSSES = (40.0, 30.0, 50.0, 45.0, 20.0, 60.0)


def told(study: StudyDirectory, record: Record, value: float = 0.0) -> list[bool]:
    """Six trials that score the same at the first rung, and whether each has to stop."""
    stops = []
    for loss in LOSSES:
        number = record.ask()
        leave_reports(study.trial(number), {10: value}, loss=loss)
        stops.append(record.absorb(number, {**report(10, value), "loss": loss}))
    return stops


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    return new_study(tmp_path, settings(trials=9, early_stopping=EarlyStopping(method="asha")))


def test_of_trials_that_score_0_those_with_high_losses_are_stopped(study: StudyDirectory) -> None:
    assert told(study, open_record(study)) == [False, False, True, True, False, True]


def test_a_record_that_is_opened_again_compares_the_same(study: StudyDirectory) -> None:
    told(study, open_record(study))
    rungs = open_record(study).index.rungs
    assert rungs.best(10, rounded_up=True) == [4, 1]


def test_values_stay_the_metric_and_the_search_sees_what_is_climbed(study: StudyDirectory) -> None:
    record = open_record(study)
    told(study, record)
    trials = record.trials()
    assert [trial.intermediate_values for trial in trials] == [{10: 0.0}] * 6
    assert {*trials[0].user_attrs["climbed"]} == {"10"}
    scores = [curve.scores[10] for curve in curves_of(trials)]
    assert sorted(range(6), key=lambda number: LOSSES[number]) == sorted(range(6), key=lambda number: -scores[number])
    assert all(0 < score < FLAT for score in scores)


def test_above_it_nothing_is_noted(study: StudyDirectory) -> None:
    record = open_record(study)
    told(study, record, value=5.0)
    assert not any("climbed" in trial.user_attrs for trial in record.trials())
    assert [curve.scores for curve in curves_of(record.trials())] == [{10: 5.0}] * 6


def test_pausing_trials_are_promoted_by_their_losses(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9, early_stopping=EarlyStopping(method="promotion")))
    record = open_record(study)
    told(study, record)
    assert record.next_up() == 1  # trial 4 was among the best when it came, and runs
