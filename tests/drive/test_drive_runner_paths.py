"""Each way to search, once on a real Ray session, with a scripted trial."""

from __future__ import annotations

import functools
from pathlib import Path

import fake_study
import pytest
import ray
from fake_study import LR, MAX_ITER, PERIOD, FakeTraining, new_study, open_record, score, settings
from optuna.trial import TrialState

from raytune_m2f import Study
from raytune_m2f.drive.runner import run_study
from raytune_m2f.study.plan import Extension
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping

pytestmark = [
    pytest.mark.usefixtures("ray_cluster"),
    pytest.mark.filterwarnings("ignore:::ray"),
    pytest.mark.slow,
]
ray.cloudpickle.register_pickle_by_value(fake_study)  # its folder is not on the workers' path

NO_STOPPING = EarlyStopping(method="none")


def check_curves(record: Record) -> None:
    """Every trial's own reports are in the record, with the values that its curve has there."""
    for trial in record.trials():
        start = trial.user_attrs.get("start", 0)
        own = {step: value for step, value in trial.intermediate_values.items() if step > start}
        assert sorted(own) == list(range(start + PERIOD, (trial.last_step or 0) + 1, PERIOD))
        assert own == {step: pytest.approx(score(trial.params[LR], step)) for step in own}


def test_promotion(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=5, early_stopping=EarlyStopping(method="promotion")))
    status = run_study(study.root, trial_function=FakeTraining(seconds=0.02))
    assert set(status.counts) == {"complete", "paused"}
    assert sum(status.counts.values()) == 5
    check_curves(open_record(study))
    assert run_study(study.root) == status  # nothing is left to do


def test_pbt(tmp_path: Path) -> None:
    """A hopeless configuration that is never stopped, so that the first other one is the best of two."""
    stopping = EarlyStopping(method="pbt", grace_iterations=20, reduction_factor=2)
    study = new_study(tmp_path, settings(trials=8, early_stopping=stopping, seed=1))
    run_study(study.root, trial_function=FakeTraining(seconds=0.02))
    record = open_record(study)
    check_curves(record)
    successors = [trial for trial in record.trials() if "parent" in trial.user_attrs]
    assert successors
    for trial in successors:
        first = (study.trial(trial.number) / "starts").read_text().split()[0]
        assert int(first) == trial.user_attrs["start"] > 0
    assert {trial.state for trial in record.trials()} == {TrialState.PRUNED, TrialState.COMPLETE}


def test_extend(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=1, early_stopping=NO_STOPPING))
    for trials in (1, 2, 4):
        more = Extension(trials=trials // 2) if trials > 1 else None
        status = run_study(study.root, trial_function=FakeTraining(), extension=more)
        assert status.counts == {"complete": trials}
    assert status.usage["iterations"] == 4 * MAX_ITER
    check_curves(open_record(study))


def test_confirm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(tmp_path, settings(trials=2, early_stopping=NO_STOPPING))
    ranked = sorted(run_study(study.root, trial_function=FakeTraining()).trials, key=lambda trial: -(trial.best or 0))
    monkeypatch.setattr(
        "raytune_m2f.drive.runner.run_study", functools.partial(run_study, trial_function=FakeTraining())
    )
    found = Study(study.root).confirm(top=2, seeds=1)
    assert [leader.trial for leader in found.leaders] == [trial.number for trial in ranked]
    found = Study(study.root).confirm(top=1, seeds=2)
    assert len(found.winner.scores) == 2
    assert found.winner.mean.value == pytest.approx(ranked[0].best)  # the seed changes nothing here
    assert len(open_record(study).trials()) == 2


def test_a_database(tmp_path: Path) -> None:
    asked = settings(trials=2, early_stopping=NO_STOPPING, optuna_storage=f"sqlite:///{tmp_path}/optuna.db")
    study = new_study(tmp_path, asked)
    assert run_study(study.root, trial_function=FakeTraining()).counts == {"complete": 2}
    assert not study.journal.exists()
    check_curves(open_record(study))
