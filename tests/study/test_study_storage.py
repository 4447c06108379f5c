"""The record in a database, and who may open what."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from fake_processes import FakeProcesses, drive
from fake_study import config, create_study, leave_reports, new_study, open_record, report, settings, space
from optuna.trial import TrialState

from raytune_m2f.errors import StudyError
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record.storage import check_address, open_database
from raytune_m2f.study.settings import EarlyStopping, StudySettings
from raytune_m2f.study.status import study_status


def in_database(root: Path, trials: int = 3, name: str = "${RAYTUNE_M2F_TEST_DB}") -> StudySettings:
    stopping = EarlyStopping(method="none")
    return settings(trials=trials, optuna_storage=f"sqlite:///{root}/{name}", early_stopping=stopping)


@pytest.fixture(autouse=True)
def variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAYTUNE_M2F_TEST_DB", "optuna.db")


def test_a_study_in_a_database_and_its_continuation(tmp_path: Path) -> None:
    study = new_study(tmp_path, in_database(tmp_path, trials=2))
    first = drive(study)
    processes = FakeProcesses(first, random.Random(0))
    for _ in range(12):
        processes.step()
    driver = drive(study)
    FakeProcesses(driver, random.Random(1)).run()
    assert [trial.state for trial in driver.record.trials()] == [TrialState.COMPLETE] * 2
    assert not study.journal.exists()
    assert "optuna.db" not in study.plan_file.read_text()
    status = study_status(study.root)
    assert status.counts == {"complete": 2}
    assert status.best == max(status.trials, key=lambda trial: trial.best or 0).number


def test_two_directories_of_one_name_share_a_database(tmp_path: Path) -> None:
    one, two = (new_study(tmp_path / folder, in_database(tmp_path)) for folder in "ab")
    record = open_record(one)
    record.absorb(record.ask(), report(10, 5.0))
    assert len(open_record(one).trials()) == 1
    assert open_record(two).trials() == []
    names = [StudyPlan.load(study.plan_file).settings.optuna_study or "" for study in (one, two)]
    assert names[0] != names[1]
    assert all(name.startswith("study ") for name in names)


def test_a_variable_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = new_study(tmp_path, in_database(tmp_path))
    monkeypatch.delenv("RAYTUNE_M2F_TEST_DB")
    with pytest.raises(StudyError, match=r"needs the environment variable.* RAYTUNE_M2F_TEST_DB"):
        study_status(study.root)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://me:secret@host/optuna",
        "postgresql://me:se/cret@host/optuna",
        "postgresql://me:${USER}secret@host:5432/optuna",
        "postgresql://host/optuna?user=me&password=secret",
    ],
)
def test_a_password_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(StudyError, match="holds a password") as caught:
        create_study(tmp_path / "study", config(), space(), settings(optuna_storage=address))
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("address", ["/shared/optuna.db", "postgresql://host:port/optuna", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(StudyError, match="is no address of a database"):
        check_address(address)


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////shared/me:you@home/optuna.db",
        "postgresql://me@host:5432/optuna",
        "${OPTUNA_DATABASE}",
        "postgresql+psycopg://me:${DB_PASSWORD}@${DB_HOST}:${DB_PORT}/optuna",
    ],
)
def test_an_address_without_a_password_is_taken(address: str) -> None:
    check_address(address)


def test_a_database_that_does_not_answer_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"cannot be opened: .*unable to open database file"):
        create_study(tmp_path / "study", config(), space(), in_database(tmp_path / "no" / "folder"))
    with pytest.raises(StudyError, match="cannot be opened"):
        open_database("nosuchdatabase://host/optuna")


def test_a_driver_of_a_database_that_is_not_installed_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(StudyError, match="cannot be opened"):
        open_database("postgresql://me@localhost:1/optuna")


def test_a_reader_makes_no_study(tmp_path: Path) -> None:
    in_file = new_study(tmp_path / "a")
    with pytest.raises(StudyError, match="has no trials yet"):
        study_status(in_file.root)
    assert not in_file.journal.exists()
    study = new_study(tmp_path / "b", in_database(tmp_path))
    (tmp_path / "optuna.db").unlink()
    with pytest.raises(StudyError, match="has no record"):
        study_status(study.root)


def test_a_failure_and_its_files_are_told_to_a_database_too(tmp_path: Path) -> None:
    record = open_record(new_study(tmp_path, in_database(tmp_path)))
    number = record.ask()
    leave_reports(record.directory.trial(number), {10: float("nan")})
    assert record.settle(number) == TrialState.FAIL
    assert open_record(record.directory).trial(number).user_attrs["error_type"] == "NonFiniteLossError"


def test_a_driver_does_not_begin_anew_where_the_database_was_lost(tmp_path: Path) -> None:
    study = new_study(tmp_path, in_database(tmp_path))
    (tmp_path / "optuna.db").unlink()
    with pytest.raises(StudyError, match="has no record"):
        open_record(study)


def test_a_relative_sqlite_file_is_refused() -> None:
    with pytest.raises(StudyError, match="by its whole path"):
        check_address("sqlite:///optuna.db")
