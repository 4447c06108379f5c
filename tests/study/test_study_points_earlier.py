"""What an earlier study knows, within another space and for other metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import LR, config, create_study, leave_reports, new_study, open_record, report, settings, space
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.search.curves import curves_of
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.status import study_status
from raytune_m2f.training.reports import METRICS

DECAY = "SOLVER.WEIGHT_DECAY"
LRS = (1e-5, 1e-4, 5e-4, 1e-3, 9e-3)


def earlier(root: Path) -> StudyDirectory:
    """Five trials to their end, the higher LR the better and the larger, and one that failed."""
    study = new_study(root / "earlier", settings(trials=9, early_stopping={"method": "none"}))
    record = open_record(study)
    record.enqueue([("earlier", {LR: lr}) for lr in LRS])
    for number in (record.ask() for _ in LRS):
        for iteration in (10, 80):
            accuracy = (0.9 if iteration == 80 else 0.8) - number / 10
            others: dict[str, Any] = {"memory_gb": 10.0 + number, "segm/APl": float("nan"), "accuracy": accuracy}
            leave_reports(study.trial(number), {iteration: 10.0 * number + 1}, **others)
            record.absorb(number, {**report(iteration, 10.0 * number + 1), **others})
        record.settle(number, ended=True)
    record.settle(record.ask(), ended=True)
    return study


def known(study: StudyDirectory, into: SearchSpace | None = None, **asked: Any) -> tuple[list[Any], list[FrozenTrial]]:
    return knowledge_of([study.root], config(), into or space(), settings(**asked))


def test_the_best_goes_first_and_all_teach(tmp_path: Path) -> None:
    """Bad advice costs one training at most."""
    study = earlier(tmp_path)
    points, prior = known(study)
    assert points == [("earlier", {LR: 9e-3})]
    assert [(trial.params[LR], trial.value, trial.state) for trial in prior] == [
        (lr, 10.0 * number + 1, TrialState.COMPLETE) for number, lr in enumerate(LRS)
    ]
    assert prior[1].user_attrs == {"prior": f"trial 1 of {study}"}


def test_the_sampler_is_told_whole_curves(tmp_path: Path) -> None:
    study = earlier(tmp_path)
    _, prior = known(study)
    assert prior[2].intermediate_values == {10: 21.0, 80: 21.0}
    curves = curves_of(prior)
    assert [curve.task for curve in curves] == [str(study)] * len(LRS)
    assert [(curve.last, curve.state) for curve in curves] == [(80, "ended")] * len(LRS)


@pytest.mark.parametrize(("length", "steps"), [(800, [100, 800]), (40, [5, 40]), (2, [1, 2])])
def test_iterations_are_shares_of_a_training(tmp_path: Path, length: int, steps: list[int]) -> None:
    other = config().with_values({"SOLVER.MAX_ITER": length})
    _, prior = knowledge_of([earlier(tmp_path).root], other, space(), settings())
    assert [sorted(trial.intermediate_values) for trial in prior] == [steps] * len(LRS)


def test_of_several_studies_the_first_has_the_point_and_all_teach(tmp_path: Path) -> None:
    """Their folders may have the same name, even one with ` of ` in it."""
    first, second = earlier(tmp_path / "a of b"), earlier(tmp_path / "c of b")
    points, prior = knowledge_of([second.root, first.root, str(second)], config(), space(), settings())
    assert points == [("earlier", {LR: 9e-3})]
    tasks = [curve.task for curve in curves_of(prior)]
    assert tasks == [str(first)] * len(LRS) + [str(second)] * len(LRS), (
        "the nearest last; what is named twice counts once"
    )


def test_a_study_that_learned_from_another_hands_on_its_own_trials(tmp_path: Path) -> None:
    """Name both to learn from both."""
    points, prior = known(earlier(tmp_path))
    study = create_study(tmp_path / "next", config(), space(), settings(), points=points, prior=prior)
    record = open_record(study)
    enqueue_points(record)
    leave_reports(study.trial(record.ask()), {80: 3.0})
    record.reconcile()
    _, again = known(study)
    assert [curve.task for curve in curves_of(again)] == [str(study)]


def test_trials_that_wait_or_run_have_shown_something_too(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9, early_stopping={"method": "promotion"}))
    record = open_record(study)
    for value in (9.0, 8.0):
        number = record.ask()
        record.absorb(number, report(10, value))
    assert [trial.state for trial in record.trials()] == [TrialState.RUNNING] * 2
    points, prior = known(study)
    assert len(points) == 1
    assert [(trial.state, trial.intermediate_values) for trial in prior] == [
        (TrialState.PRUNED, {10: 9.0}),
        (TrialState.PRUNED, {10: 8.0}),
    ]


def test_only_what_lies_in_the_new_space(tmp_path: Path) -> None:
    narrow = SearchSpace.from_dict({LR: {"type": "loguniform", "low": 1e-4, "high": 5e-3}})
    points, prior = known(earlier(tmp_path), narrow)
    assert points == [("earlier", {LR: 1e-3})]
    assert [trial.params[LR] for trial in prior] == [1e-4, 5e-4, 1e-3]


def test_a_key_that_was_not_searched_has_the_value_of_the_config(tmp_path: Path) -> None:
    wider = SearchSpace.from_dict({**space().to_dict(), DECAY: {"type": "uniform", "low": 0.0, "high": 0.1}})
    points, prior = known(earlier(tmp_path), wider)
    assert {values[DECAY] for _, values in points} == {config().value(DECAY)}
    assert prior[0].params[DECAY] == config().value(DECAY)


def test_other_metrics_are_computed_anew_from_all_reports(tmp_path: Path) -> None:
    study = earlier(tmp_path)
    points, prior = known(study, metrics=("accuracy", "-memory_gb"))
    assert points == [("earlier", {LR: 1e-5})]
    assert prior[3].values == [pytest.approx(0.6), -13.0]
    assert prior[3].intermediate_values == pytest.approx({10: 0.5, 80: 0.6}), "the best is not where it was"
    for number in range(len(LRS)):
        (study.trial(number) / METRICS).unlink()
    _, prior = known(study, metrics=("accuracy",))
    assert prior[3].intermediate_values == pytest.approx({10: 0.5, 80: 0.6}), "those that the record holds"


def test_what_keeps_the_constraints_goes_first(tmp_path: Path) -> None:
    points, prior = known(earlier(tmp_path), constraints=("memory_gb<=12",))
    assert points == [("earlier", {LR: 5e-4})]
    assert [trial.constraints["memory_gb<=12"] for trial in prior] == [-2.0, -1.0, 0.0, 1.0, 2.0]


def test_a_grid_learns_nothing(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"--from with --sampler grid: .* Leave --from out"):
        known(earlier(tmp_path), sampler="grid")


def test_who_asks_for_random_points_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(known(earlier(tmp_path), sampler="random")[0]) == 1
    assert "--from: the best point is tried, but --sampler random learns from no other study" in caplog.text


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
        knowledge_of([tmp_path], config(), space(), settings())


def test_what_was_stopped_is_told_as_stopped(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9))
    record = open_record(study)
    for value in (9.0, 8.0, 7.0, 6.0, 5.0):
        number = record.ask()
        for iteration, at in ((10, value), (30, value - 1)):
            leave_reports(study.trial(number), {iteration: at}, accuracy=value / 10)
            record.absorb(number, {**report(iteration, at), "accuracy": value / 10})
        record.settle(number, ended=True)
    states = [trial.state for trial in record.trials()]
    assert TrialState.PRUNED in states
    _, prior = known(study, metrics=("accuracy",))
    assert [trial.state for trial in prior] == states
    assert [trial.intermediate_values for trial in prior] == [
        pytest.approx({10: value, 30: value}) for value in (0.9, 0.8, 0.7, 0.6, 0.5)
    ]


def test_what_is_known_is_neither_shown_nor_counted(tmp_path: Path) -> None:
    points, prior = known(earlier(tmp_path))
    asked: StudySettings = settings(trials=4)
    study = create_study(tmp_path / "new", config(), space(), asked, points=points, prior=prior)
    record = open_record(study)
    enqueue_points(record)
    numbers = [record.ask() for _ in range(4)]
    assert [record.trial(number).user_attrs.get("origin") for number in numbers] == ["config", "earlier", None, None]
    status = study_status(study.root)
    assert len(status.trials) == status.usage["trials"] == 4
    assert record.next_up() is None
    with pytest.raises(StudyError, match="none of its trials"):
        known(study)  # nothing was run there yet
