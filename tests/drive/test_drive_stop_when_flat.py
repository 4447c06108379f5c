"""A study that ends when further trials would bring less than the noise; through kills and a larger budget."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_processes import FakeProcesses, drive, live
from fake_study import MAX_ITER, new_study, open_record, settings

from raytune_m2f.drive.driver import Driver
from raytune_m2f.errors import StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.lines import flat_words, status_caption
from raytune_m2f.study.plan import Extension, StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.gains import LEAST_TRIALS
from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.search.model import CurveModel
from raytune_m2f.study.settings import EarlyStopping, StoppingMethod, StudySettings
from raytune_m2f.study.status import StudyStatus, has_work, study_status

FLAT_AFTER = LEAST_TRIALS + 1
"""Trials at the second of two checks in a row."""


@dataclass(frozen=True)
class Level:
    """A model in which all points are alike, but for one step in how high more trials get."""

    step: float
    noise: float = 1.0

    def predict(self, points: Sequence[Mapping[str, Any]], share: float = 1.0) -> tuple[Floats, Floats]:
        return np.zeros(len(points)), np.zeros(len(points))

    def draws(self, points: Sequence[Any], count: int, random: np.random.Generator, share: float = 1.0) -> Floats:
        return np.full((count, len(points)), self.step) * (np.arange(len(points)) > 0)


def gains(patch: pytest.MonkeyPatch, *steps: float) -> list[int]:
    """Each check expects the next of these gains, the last one again and again; returns of how many trials."""
    asked: list[int] = []

    def fit(axes: Axes, curves: Sequence[Curve], max_iter: int) -> Level:
        asked.append(len(curves))
        return Level(steps[min(len(asked), len(steps)) - 1])

    patch.setattr(CurveModel, "fit", fit)
    return asked


def asking(method: StoppingMethod = "none", trials: int = 14, **others: Any) -> StudySettings:
    stopping = EarlyStopping(method=method)
    return settings(trials=trials, stop_when_flat=True, early_stopping=stopping, sampler="random", **others)


def run(study: StudyDirectory, at_once: int = 1) -> Record:
    driver = drive(study)
    FakeProcesses(driver, random.Random(0), at_once).run()
    return driver.record


def test_a_study_ends_after_two_checks_in_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = gains(monkeypatch, 0.25)
    record = run(new_study(tmp_path, asking()))
    assert record.usage().trials == FLAT_AFTER
    assert asked == [LEAST_TRIALS, FLAT_AFTER]
    assert record.flat is not None
    assert (record.flat.trials, record.flat.mean, record.flat.noise) == (10, 0.25, 1.0)
    assert not has_work(record)


def test_one_check_alone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 0.25, 2.0, 0.25, 0.25)
    assert run(new_study(tmp_path, asking())).usage().trials == FLAT_AFTER + 2


def test_a_study_that_gains_or_was_not_asked_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 2.0)
    record = run(new_study(tmp_path / "gains", asking(trials=11)))
    assert (record.usage().trials, record.flat) == (11, None)
    asked = gains(monkeypatch, 0.0)
    assert run(new_study(tmp_path / "unasked", settings(trials=11, sampler="random"))).usage().trials == 11
    assert asked == []


def test_with_many_at_once_two_checks_know_different_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 0.25)
    record = run(new_study(tmp_path, asking(trials=30)), at_once=4)
    checks = record.study.user_attrs["gains"]["at"]
    assert checks[0] < checks[1]
    assert FLAT_AFTER <= record.usage().trials <= FLAT_AFTER + 3
    assert record.unfinished() == []


def test_those_that_wait_are_brought_to_their_end_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 0.25)
    study = new_study(tmp_path, asking("promotion"))
    record = open_record(study)  # without the known-good points, of which the first would run to its end
    FakeProcesses(Driver(record, record.reconcile()), random.Random(0), 1).run()
    assert FLAT_AFTER <= record.usage().trials < 14
    assert max(trial.last_step or 0 for trial in record.trials()) == MAX_ITER


@pytest.mark.parametrize("seed", range(3))
def test_kills_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    gains(monkeypatch, 0.25)
    study = new_study(tmp_path, asking())
    driver = live(study, random.Random(seed), monkeypatch, longest=60)
    assert FLAT_AFTER <= driver.record.usage().trials <= FLAT_AFTER + 2
    again = open_record(study)
    assert again.flat == driver.record.flat
    assert not has_work(again)


def test_a_larger_budget_goes_on_for_eight_trials_at_least(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gains(monkeypatch, 0.25)
    study = new_study(tmp_path, asking(trials=10))
    record = run(study)
    extended = Extension(trials=20).of(record.plan, record.usage())
    assert extended.settings.stop_when_flat
    assert has_work(Record(study, extended))
    study.save(extended)
    assert run(study).usage().trials == FLAT_AFTER + FLAT_AFTER


def test_a_flat_study_says_so_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    gains(monkeypatch, 0.25)
    study = new_study(tmp_path, asking())
    run(study)
    status = study_status(study.root)
    assert flat_words(status) == (
        "the search is flat: 10 more trials would bring 0.25 +- 0; noise 1. No further trial starts; for more all the "
        "same: raytune-m2f extend study --trials 10"
    )
    assert "the search is flat" in status_caption(status)
    assert "resume" not in status_caption(status)
    assert StudyStatus.from_json(status.to_json()) == status
    assert StudyPlan.load(study.plan_file).settings.stop_when_flat


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({"sampler": "grid"}, "sampler grid"),
        ({"early_stopping": {"method": "pbt"}}, "early_stopping pbt"),
        ({"metrics": ["segm/AP", "-loss"]}, "several metrics"),
    ],
)
def test_what_cannot_be_flat_is_refused(asked: dict[str, Any], what: str) -> None:
    with pytest.raises(StudyError, match=f"^settings of the study: stop_when_flat does not go with {what}"):
        StudySettings.from_dict({"budget": {"trials": 9}, "stop_when_flat": True, **asked})
