"""An index that was kept up to date equals one that is built anew, after any event."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_processes import FakeProcesses, drive
from fake_study import MAX_ITER, create_study, new_study, open_record, settings, two_metrics
from optuna.trial import TrialState, create_trial

from raytune_m2f.study.record import Record
from raytune_m2f.study.record.index import Index
from raytune_m2f.study.settings import EarlyStopping, StudySettings

METHODS = ["asha", "promotion", "pbt", "none"]


def contents(index: Index, record: Record) -> dict[str, Any]:
    """All that is in it; only of what was queued, an index that was built anew knows more."""
    queued = {trial.number for trial in record.trials(TrialState.WAITING)}
    used = index.usage(seconds=0.0)
    return {
        "ids": {number: found for number, found in index.ids.items() if number not in queued},
        "started": index.started,
        "paused": index.paused,
        "vacant": index.vacant,
        "heirs": index.heirs,
        "rungs": index.rungs,
        "iterations": used.iterations,
        "gpu_hours": pytest.approx(used.gpu_hours, abs=1e-9),
    }


def anew(record: Record) -> Index:
    index = Index(record.plan)
    for trial in record.trials():
        index.add(trial)
    return index


@pytest.mark.parametrize("make", [settings, two_metrics])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_an_index_kept_up_to_date_equals_one_built_anew(
    tmp_path: Path, method: str, seed: int, make: Callable[..., StudySettings]
) -> None:
    stopping = EarlyStopping(method=method, reduction_factor=2)
    driver = drive(new_study(tmp_path, make(trials=8, seed=seed, early_stopping=stopping)))
    record, processes = driver.record, FakeProcesses(driver, random.Random(seed))
    events = 0
    while processes.step():
        events += 1
        assert contents(record.index, record) == contents(anew(record), record)
    reopened = open_record(record.directory)
    assert contents(reopened.index, reopened) == contents(record.index, record)
    assert record.index.started == 8
    assert events > 30


def test_what_was_not_run_here_is_not_counted(tmp_path: Path) -> None:
    known = new_study(tmp_path / "known")
    prior = create_trial(value=9.0, intermediate_values={10: 9.0}, user_attrs={"prior": "trial 3 of another"})
    plan = open_record(known).plan
    study = create_study(tmp_path / "study", plan.config, plan.space, plan.settings, prior=[prior])
    record = open_record(study)
    record.study.enqueue_trial({})
    record = open_record(study)
    assert record.usage().trials == 0
    assert record.usage().iterations == 0
    assert record.index.rungs.best(10, rounded_up=True) == []
    assert record.index.started == 0


def test_the_first_report_at_or_after_a_rung(tmp_path: Path) -> None:
    index = open_record(new_study(tmp_path)).index
    assert [index.evaluation_at(rung) for rung in (1, 10, 11, 75, MAX_ITER)] == [10, 10, 20, 80, 80]
