"""What an earlier study knows, within another space and for other metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import LR, config, create_study, leave_reports, new_study, open_record, report, settings, space
from optuna.trial import TrialState

from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.status import study_status

DECAY = "SOLVER.WEIGHT_DECAY"
LRS = (1e-5, 1e-4, 5e-4, 1e-3, 9e-3)


def earlier(root: Path) -> StudyDirectory:
    """Five trials to their end, the higher LR the better and the larger, and one that failed."""
    study = new_study(root / "earlier", settings(trials=9, early_stopping={"method": "none"}))
    record = open_record(study)
    record.enqueue([("earlier", {LR: lr}) for lr in LRS])
    for number in (record.ask() for _ in LRS):
        for iteration in (10, 80):
            others = {"memory_gb": 10.0 + number, "segm/APl": float("nan"), "accuracy": 0.9 - number / 10}
            leave_reports(study.trial(number), {iteration: 10.0 * number + 1})
            record.absorb(number, {**report(iteration, 10.0 * number + 1), **others})
        record.settle(number, ended=True)
    record.settle(record.ask(), ended=True)
    return study


def known(study: StudyDirectory, into: SearchSpace | None = None, **asked: Any) -> tuple[list[Any], list[Any]]:
    return knowledge_of(study.root, into or space(), settings(**asked))


def test_the_best_go_first_and_the_others_teach(tmp_path: Path) -> None:
    points, prior = known(earlier(tmp_path))
    assert points == [("earlier", {LR: lr}) for lr in (9e-3, 1e-3, 5e-4)]
    assert [(trial.params, trial.value, trial.state) for trial in prior] == [
        ({LR: 1e-4}, 11.0, TrialState.COMPLETE),
        ({LR: 1e-5}, 1.0, TrialState.COMPLETE),
    ]
    assert prior[0].user_attrs == {"prior": "trial 1 of study"}


def test_only_what_lies_in_the_new_space(tmp_path: Path) -> None:
    narrow = SearchSpace.from_dict({LR: {"type": "loguniform", "low": 1e-4, "high": 5e-3}})
    points, prior = known(earlier(tmp_path), narrow)
    assert [values[LR] for _, values in points] == [1e-3, 5e-4, 1e-4]
    assert prior == []


def test_a_key_that_was_not_searched_has_the_value_of_the_config(tmp_path: Path) -> None:
    wider = SearchSpace.from_dict({**space().to_dict(), DECAY: {"type": "uniform", "low": 0.0, "high": 0.1}})
    points, prior = known(earlier(tmp_path), wider)
    assert {values[DECAY] for _, values in points} == {config().value(DECAY)}
    assert prior[0].params[DECAY] == config().value(DECAY)


def test_other_metrics_are_computed_anew(tmp_path: Path) -> None:
    points, prior = known(earlier(tmp_path), metrics=("accuracy", "-memory_gb"))
    assert [values[LR] for _, values in points] == [1e-5, 1e-4, 5e-4]
    assert prior[0].values == [pytest.approx(0.6), -13.0]


def test_what_keeps_the_constraints_goes_first(tmp_path: Path) -> None:
    points, prior = known(earlier(tmp_path), constraints=("memory_gb<=12",))
    assert [values[LR] for _, values in points] == [5e-4, 1e-4, 1e-5]
    assert [trial.constraints for trial in prior] == [{"memory_gb<=12": 2.0}, {"memory_gb<=12": 1.0}]


@pytest.mark.parametrize(
    ("into", "asked"),
    [
        ({LR: {"type": "loguniform", "low": 1e-8, "high": 1e-7}}, {}),
        (space().to_dict(), {"metrics": ("segm/AR",)}),
        (space().to_dict(), {"metrics": ("segm/APl",)}),  # NaN in every report
        (space().to_dict(), {"constraints": ("latency_ms<=5",)}),
    ],
)
def test_a_study_that_knows_nothing_is_refused(tmp_path: Path, into: Any, asked: Any) -> None:
    with pytest.raises(StudyError, match="none of its trials has a report with"):
        known(earlier(tmp_path), SearchSpace.from_dict(into), **asked)


def test_no_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="is no study directory"):
        knowledge_of(tmp_path, space(), settings())


def test_what_was_stopped_is_told_with_its_best_value_where_it_was_stopped(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9))
    record = open_record(study)
    for value in (9.0, 8.0, 7.0, 6.0, 5.0):
        number = record.ask()
        for iteration, at in ((10, value), (30, value - 1)):
            record.absorb(number, {**report(iteration, at), "accuracy": value / 10})
        record.settle(number, ended=True)
    states = [trial.state for trial in record.trials()]
    assert TrialState.PRUNED in states
    _, prior = known(study, metrics=("accuracy",))
    stopped = [trial for trial in prior if trial.state == TrialState.PRUNED]
    assert len(stopped) == 2
    assert [list(trial.intermediate_values.values()) for trial in stopped] == [[trial.value] for trial in stopped]


def test_what_is_known_is_neither_shown_nor_counted(tmp_path: Path) -> None:
    points, prior = known(earlier(tmp_path))
    asked: StudySettings = settings(trials=4)
    study = create_study(tmp_path / "new", config(), space(), asked, points=points, prior=prior)
    record = open_record(study)
    enqueue_points(record)
    numbers = [record.ask() for _ in range(4)]
    assert [record.trial(number).user_attrs["origin"] for number in numbers] == ["config", *["earlier"] * 3]
    status = study_status(study.root)
    assert len(status.trials) == status.usage["trials"] == 4
    assert record.is_full()
    with pytest.raises(StudyError, match="none of its trials"):
        known(study)  # nothing was run there yet
