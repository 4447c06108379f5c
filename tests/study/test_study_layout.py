"""A study that is refused leaves nothing, and one that has no trial gives way to the next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_store import ADDRESS, FakeStore
from fake_study import LR, config, leave_reports, open_record, report, settings, space

from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import StudyError
from raytune_m2f.storage.object_store import ObjectStore
from raytune_m2f.study.directory import StudyDirectory, StudyPlan
from raytune_m2f.study.layout import create_study, has_begun, new_study
from raytune_m2f.study.settings import EarlyStopping, StudySettings
from raytune_m2f.study.space import SearchSpace

OTHER = {LR: {"type": "loguniform", "low": 1e-4, "high": 1e-3}}


def lay_out(root: Path | str, asked: StudySettings | None = None, **others: Any) -> StudyDirectory:
    return create_study(root, config(), SearchSpace.from_dict(OTHER), asked or settings(trials=7), **others)


def is_the_other(study: StudyDirectory) -> bool:
    plan = StudyPlan.load(study.plan_file)
    return plan.space.to_dict() == OTHER and plan.settings.budget.trials == 7


@pytest.fixture
def refused(tmp_path: Path) -> StudyDirectory:
    """What an earlier version left of a study that its cluster refused: the plan, and points in the queue."""
    study = create_study(tmp_path / "study", config(), space(), settings())
    enqueue_points(open_record(study))
    assert study.journal.stat().st_size > 0
    return study


def test_nothing_is_written_until_the_study_is_laid_out(tmp_path: Path) -> None:
    new = new_study(tmp_path / "a" / "study", config(), space(), settings())
    assert list(tmp_path.iterdir()) == []
    with new.laid_out() as study:
        assert study.driver() is not None, "it is laid out by its driver"
        assert StudyPlan.load(study.plan_file).settings == settings()
    assert study.driver() is None


@pytest.mark.parametrize(
    "asked",
    [
        {"early_stopping": EarlyStopping(grace_iterations=80)},
        {"optuna_storage": "sqlite:////no/such/folder/optuna.db"},
        {"optuna_storage": "sqlite:///relative.db"},
        {"optuna_storage": "postgresql://me:secret@host/optuna"},
        {"optuna_storage": "postgresql://me:${RAYTUNE_M2F_NOT_SET}@host/optuna"},
        {"optuna_storage": "nonsense"},
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(StudyError):
        lay_out(tmp_path / "study", settings(**asked))
    assert list(tmp_path.iterdir()) == []
    assert is_the_other(lay_out(tmp_path / "study")), "the corrected command"


def test_a_study_without_a_trial_gives_way(refused: StudyDirectory) -> None:
    assert not has_begun(refused)
    notes = refused.root / "notes.txt"
    notes.write_text("mine")
    study = lay_out(refused.root)
    assert is_the_other(study)
    assert open_record(study).trials() == [], "the old queue is gone"
    assert notes.read_text() == "mine"


@pytest.mark.parametrize("left", ["plan alone", "no plan", "half a plan", "Ray's files"])
def test_what_a_kill_left_of_a_study_gives_way(refused: StudyDirectory, left: str) -> None:
    if left == "plan alone":
        refused.journal.unlink()
        refused.trials.rmdir()
    if left in ("no plan", "half a plan"):
        refused.plan_file.unlink()
    if left == "half a plan":
        (refused.root / ".study.yaml.77.tmp").write_text("settings: {bud")
    if left == "Ray's files":
        (refused.ray / "tune").mkdir(parents=True)
    study = lay_out(refused.root)
    assert is_the_other(study)
    assert not list(study.root.glob(".study.yaml.*"))


def test_one_that_has_begun_never_gives_way(refused: StudyDirectory) -> None:
    record = open_record(refused)
    record.absorb(record.ask(), report(10, 1.0))
    assert not refused.has_trials, "it is known by its record alone"
    before = {path: path.read_bytes() for path in refused.root.iterdir() if path.is_file()}
    with pytest.raises(StudyError, match=r"is a study already\. Go on with it by `raytune-m2f resume"):
        lay_out(refused.root)
    refused.plan_file.rename(refused.root / "study.yaml.mine")
    with pytest.raises(StudyError, match="is not empty and no study"):
        lay_out(refused.root)
    (refused.root / "study.yaml.mine").rename(refused.plan_file)
    assert {path: path.read_bytes() for path in refused.root.iterdir() if path.is_file()} == before
    plan = refused.plan_file.read_bytes()
    refused.plan_file.unlink()
    with pytest.raises(StudyError, match="is a study already"):
        lay_out(refused.root)
    refused.plan_file.write_bytes(plan)
    refused.journal.unlink()
    leave_reports(refused.trial(0), {10: 1.0})
    with pytest.raises(StudyError, match="is a study already"):
        lay_out(refused.root)


def test_a_record_that_cannot_be_read_may_have_trials(refused: StudyDirectory) -> None:
    lines = refused.journal.read_bytes().splitlines(keepends=True)
    refused.journal.write_bytes(b"".join([lines[0], b"garbage\n", *lines[1:]]))
    with pytest.raises(StudyError, match="line 2, is damaged"):
        lay_out(refused.root)


def test_one_that_somebody_drives_does_not_give_way(refused: StudyDirectory) -> None:
    with refused.locked(), pytest.raises(StudyError, match=f"being run by another driver \\(process {os.getpid()} on"):
        lay_out(refused.root)
    assert not is_the_other(refused)


def test_who_lays_it_out_second_is_refused(tmp_path: Path) -> None:
    first, second = (new_study(tmp_path / "study", config(), space(), settings()) for _ in range(2))
    with first.laid_out() as study:
        record = open_record(study)
        record.ask()
        with pytest.raises(StudyError, match="being run by another driver"), second.laid_out():
            pass
    with pytest.raises(StudyError, match="is a study already"), second.laid_out():
        pass
    assert len(open_record(study).trials()) == 1


def test_in_a_database_the_old_study_goes_too(tmp_path: Path) -> None:
    asked = settings(optuna_storage=f"sqlite:///{tmp_path}/optuna.db")
    study = create_study(tmp_path / "study", config(), space(), asked)
    enqueue_points(open_record(study))
    lay_out(study.root, settings(trials=7, optuna_storage=f"sqlite:///{tmp_path}/optuna.db"))
    name = StudyPlan.load(study.plan_file).settings.optuna_study
    assert optuna.get_all_study_names(f"sqlite:///{tmp_path}/optuna.db") == [name]
    open_record(study).ask()
    with pytest.raises(StudyError, match="is a study already"):
        lay_out(study.root)


def test_a_database_that_is_lost_is_no_reason_to_take_its_place(tmp_path: Path) -> None:
    asked = settings(optuna_storage=f"sqlite:///{tmp_path}/db/optuna.db")
    (tmp_path / "db").mkdir()
    study = create_study(tmp_path / "study", config(), space(), asked)
    (tmp_path / "db" / "optuna.db").unlink()
    (tmp_path / "db").rmdir()
    with pytest.raises(StudyError, match="cannot be opened"):
        lay_out(study.root)


def test_on_a_store_it_gives_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore(tmp_path / "store", monkeypatch)
    study = create_study(ADDRESS, config(), space(), settings())
    with study.locked():
        enqueue_points(open_record(study))
    ObjectStore.at(ADDRESS).write("notes.txt", "mine")
    other = lay_out(ADDRESS)
    assert is_the_other(StudyDirectory.at(ADDRESS))
    assert store.files() == ["notes.txt", "study.yaml"]
    with other.locked():
        open_record(other).ask()
    assert "optuna.journal" in store.files()
    with pytest.raises(StudyError, match="is a study already"):
        lay_out(ADDRESS)
