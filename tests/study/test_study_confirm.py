"""Which leaders are trained again, and how they compare; without Ray."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from fake_study import (
    LR,
    config,
    create_study,
    laid_out,
    leave_reports,
    new_study,
    open_record,
    report,
    settings,
    space,
)
from rich.console import Console
from scipy.stats import t as student

from raytune_m2f import Study
from raytune_m2f.cli.tables import confirmation_table
from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import StudyError, TrainingError
from raytune_m2f.study.confirm import Confirmation, Leader, Mean
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import NewStudy
from raytune_m2f.study.plan import Extension, StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping, StudySettings
from raytune_m2f.study.space import SearchSpace

SEED = "SEED"
RUN_STUDY = "raytune_m2f.drive.runner.run_study"


def score_trial(record: Record, value: float, **others: Any) -> int:
    """The next trial, to its end."""
    number = record.ask()
    leave_reports(record.directory.trial(number), {80: value}, **others)
    record.absorb(number, {**report(80, value), **others})
    record.settle(number, ended=True)
    return number


def finished(root: Path, asked: StudySettings, *points: tuple[float, float], **others: Any) -> StudyDirectory:
    """A study whose trials have these learning rates and scores."""
    study = new_study(root, asked)
    record = open_record(study)
    for lr, value in points:
        record.study.enqueue_trial({LR: lr})
        score_trial(record, value, **others)
    return study


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands for Ray: each trial of `confirm` scores 1000 x LR, and a tenth more with each seed."""
    done: list[dict[str, Any]] = []

    def run(target: StudyDirectory | NewStudy, *, extension: Extension | None = None, **others: Any) -> None:
        study = laid_out(target)
        record = open_record(study)
        if extension is not None:
            extension.of(record.plan, record.usage()).save(study.plan_file)
            record = open_record(study)
        enqueue_points(record)
        record.reconcile()
        while record.plan.settings.budget.allows_new_trial(record.usage()):
            number = record.ask()
            params = record.trial(number).params
            done.append(params)
            value = 1000 * params[LR] + params[SEED] / 10
            leave_reports(study.trial(number), {80: value})
            record.settle(number, ended=True)

    monkeypatch.setattr(RUN_STUDY, run)
    return done


POINTS = ((1e-3, 20.0), (2e-3, 30.0), (3e-3, 10.0), (4e-3, 40.0))


def test_the_leaders_are_trained_under_the_same_new_seeds(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    study = finished(tmp_path, settings(trials=4), *POINTS)
    found = Study(study.root).confirm(top=2, seeds=3)
    first = config().value(SEED) + 1
    assert [(leader.trial, leader.first) for leader in found.leaders] == [(3, 40.0), (1, 30.0)]
    assert all(list(leader.scores) == [first, first + 1, first + 2] for leader in found.leaders)
    assert sorted((params[LR], params[SEED] - first) for params in trained) == [
        (lr, seed) for lr in (2e-3, 4e-3) for seed in range(3)
    ]
    assert found.winner.mean.value == pytest.approx(4 + (first + 1) / 10)
    lead = found.lead()
    assert lead is not None
    assert lead.value == pytest.approx(2.0)
    assert found.is_certain()  # within a seed the difference is always the same


def test_again_does_nothing_and_more_adds_what_is_missing(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    study = finished(tmp_path, settings(trials=4), *POINTS)
    for top, seeds, expected in ((2, 2, 4), (2, 2, 4), (3, 2, 6), (3, 3, 9), (2, 3, 9)):
        found = Study(study.root).confirm(top=top, seeds=seeds)
        assert len(trained) == expected
        assert [len(leader.scores) for leader in found.leaders][:top] == [3 if expected == 9 else 2] * top
        assert len(found.leaders) == top
    assert StudyPlan.load(study.root / "confirm" / "study.yaml").settings.budget.trials == 9


def test_of_equal_values_one_is_trained(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    """A choice among few is often drawn twice; the same training twice would say nothing."""
    study = finished(tmp_path, settings(trials=4), (1e-3, 20.0), (1e-3, 21.0), (2e-3, 5.0))
    found = Study(study.root).confirm(top=2, seeds=2)
    assert {leader.trial for leader in found.leaders} == {1, 2}
    assert len(trained) == 4
    with pytest.raises(StudyError, match="has 2 different trials with a score; --top 3 are too many"):
        Study(study.root).confirm(top=3, seeds=2)


def test_who_breaks_a_constraint_leads_nothing(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    study = finished(tmp_path, settings(trials=4, constraints=("memory_gb<=20",)), *POINTS, memory_gb=30.0)
    with pytest.raises(StudyError, match="has 0 different trials with a score"):
        Study(study.root).confirm(top=1)
    assert not (study.root / "confirm").exists()


def test_the_study_may_stop_early_and_has_a_database(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    """Its confirmation does neither."""
    asked = settings(
        trials=4,
        early_stopping=EarlyStopping(method="promotion"),
        optuna_storage=f"sqlite:///{tmp_path}/optuna.db",
    )
    study = finished(tmp_path, asked, *POINTS)
    Study(study.root).confirm(top=1, seeds=1)
    found = StudyPlan.load(study.root / "confirm" / "study.yaml").settings
    assert (found.early_stopping.method, found.optuna_storage, found.sampler) == ("none", None, "grid")


def test_nothing_to_compare_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = finished(tmp_path, settings(trials=4), *POINTS)

    def stopped_by_a_person(target: StudyDirectory | NewStudy, **others: Any) -> None:
        open_record(laid_out(target)).enqueue([])

    monkeypatch.setattr(RUN_STUDY, stopped_by_a_person)
    with pytest.raises(TrainingError, match="came to its end, so there is nothing to compare"):
        Study(study.root).confirm(top=1, seeds=1)


def test_a_confirmation_that_was_refused_gives_way(
    tmp_path: Path, trained: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished(tmp_path, settings(trials=4), *POINTS)

    def refused(target: object, **others: Any) -> None:
        raise StudyError("a trial does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(RUN_STUDY, refused)
        with pytest.raises(StudyError, match="does not fit"):
            Study(study.root).confirm(top=3, seeds=3)
    assert not (study.root / "confirm").exists()
    Study(study.root).confirm(top=2, seeds=1)
    assert len(trained) == 2


def test_the_seed_after_the_last_is_the_first(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    asked = settings(trials=1)
    study = create_study(tmp_path / "study", config().with_values({SEED: 2**31 - 2}), space(), asked)
    record = open_record(study)
    record.study.enqueue_trial({LR: 1e-3})
    score_trial(record, 20.0)
    found = Study(study.root).confirm(top=1, seeds=3)
    assert sorted(found.winner.scores) == [0, 1, 2**31 - 1]
    assert [config().with_values(params).value(SEED) for params in trained] == [2**31 - 1, 0, 1]


def test_a_leader_is_trained_again_with_the_same_shares(tmp_path: Path, trained: list[dict[str, Any]]) -> None:
    mask, dice = (f"MODEL.MASK_FORMER.{name}_WEIGHT" for name in ("MASK", "DICE"))
    share = {"type": "share", "low": 1.0, "high": 20.0}
    shares = SearchSpace.from_dict({**space().to_dict(), mask: share, dice: share})
    study = create_study(tmp_path / "study", config(), shares, settings(trials=1))
    record = open_record(study)
    record.study.enqueue_trial({LR: 1e-3, mask: 18.0, dice: 2.0})
    score_trial(record, 20.0)
    Study(study.root).confirm(top=1, seeds=1)
    confirming = open_record(StudyDirectory.at(study.root / "confirm"))
    assert {key: confirming.values(confirming.trial(0))[key] for key in (mask, dice)} == {mask: 9.0, dice: 1.0}


def test_a_mean_with_its_interval() -> None:
    mean = Mean.of([1.0, 2.0, 3.0])
    assert mean.value == 2.0
    assert mean.half_width == pytest.approx(student.ppf(0.975, 2) / 3**0.5)
    assert str(mean) == "2.00 ± 2.48"
    assert str(Mean.of([1.0])) == "1.00"


def pair(winner: dict[int, float], second: dict[int, float]) -> Confirmation:
    return Confirmation([Leader(4, 1.0, winner), Leader(7, 1.0, second)])


def test_a_lead_is_taken_within_the_seeds_that_both_have() -> None:
    lead = pair({1: 5.0, 2: 7.0, 3: 9.0}, {1: 4.0, 3: 8.0}).lead()
    assert lead is not None
    assert (lead.value, lead.half_width) == (1.0, 0.0)
    assert pair({1: 5.0}, {2: 4.0}).lead() is None
    assert Confirmation([Leader(4, 1.0, {1: 5.0})]).lead() is None


@pytest.mark.parametrize(
    ("second", "certain"),
    [({1: 4.0, 2: 6.1}, True), ({1: 0.0, 2: 6.9}, False), ({1: 4.0}, False), ({3: 4.0}, False)],
)
def test_a_lead_is_certain_if_its_interval_lies_above_zero(second: dict[int, float], certain: bool) -> None:
    assert pair({1: 5.0, 2: 7.0}, second).is_certain() == certain


def test_a_table_of_the_leaders() -> None:
    stream = io.StringIO()
    Console(file=stream, width=160).print(confirmation_table(pair({1: 5.0, 2: 7.0}, {1: 0.0, 2: 6.9})))
    text = " ".join(stream.getvalue().split())
    assert "0.00 6.90" in text


def test_the_verdict_says_how_sure_it_is() -> None:
    found = pair({1: 5.0, 2: 7.0}, {1: 0.0, 2: 6.9})
    assert str(found).startswith("winner: trial 4 with 6.00 ± 12.71 (95 % interval), 2.55 ± ")
    assert str(found).endswith(" above trial 7, which is not certain: give more --seeds")
    assert str(pair({1: 5.0, 2: 7.0}, {1: 4.0, 2: 6.1})).endswith(" above trial 7")
    assert str(Confirmation([Leader(4, 1.0, {1: 5.0})])) == "winner: trial 4 with 5.00"
