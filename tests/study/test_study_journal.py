"""A journal that was damaged: what is read, what is cut, and what only a person can decide."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_store import ADDRESS, FakeStore
from fake_study import (
    LR,
    MAX_ITER,
    config,
    create_study,
    leave_reports,
    new_study,
    open_record,
    report,
    settings,
    space,
)

from raytune_m2f.drive.tidy import set_aside_others
from raytune_m2f.errors import StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.record.journal import Journal
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.study.status import study_status

DAMAGED = {
    "garbage": b"garbage\n",
    "a blank line": b"\n",
    "no UTF-8": b"\xff\xfe\x80\n",
    "a list": b"[1]\n",
    "a number": b"7\n",
    "an unknown operation": b'{"op_code":99,"worker_id":"x"}\n',
    "an operation in words": b'{"op_code":"7","worker_id":"x"}\n',
    "NULs": b"\0" * 512 + b"\n",
    "half a line": b'{"op_code":7,"worker_id":"x","tri\n',
    "two glued lines": b'{"op_code":7,"worker_id":"x","tri{"op_code":7,"worker_id":"x"}\n',
    "keys missing": b'{"op_code":7,"worker_id":"x"}\n',
    "no such trial": b'{"op_code":7,"worker_id":"x","trial_id":77,"step":10,"intermediate_value":1.0}\n',
    "no such study": b'{"op_code":4,"worker_id":"x","study_id":3,"datetime_start":"2026-01-01T00:00:00.000000"}\n',
    "a number in words": b'{"op_code":7,"worker_id":"x","trial_id":0,"step":10,"intermediate_value":"high"}\n',
    "an attribute of another type": b'{"op_code":8,"worker_id":"x","trial_id":0,"user_attr":{"best":[1]}}\n',
    "no date": b'{"op_code":4,"worker_id":"x","study_id":0,"datetime_start":"yesterday"}\n',
    "no distribution": b'{"op_code":5,"worker_id":"x","trial_id":1,"param_name":"x","param_value_internal":1,'
    b'"distribution":"{}"}\n',
    "deep nesting": b'{"op_code":8,"worker_id":"x","trial_id":0,"user_attr":' + b"[" * 100_000 + b"\n",
}
ENDS = {
    **DAMAGED,
    "several bad lines": b"garbage\n\0\0\0\n[1]\n",
    "NULs without a line": b"\0" * 4096,
    "torn": b'{"op_code":7,"worker_id":"x","tri',
}
DAMAGES = pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    """One trial at its end, one half-way."""
    study = new_study(tmp_path, settings(trials=3, early_stopping=EarlyStopping(method="none")))
    record = open_record(study)
    for end in (MAX_ITER, 30):
        number = record.ask()
        leave_reports(study.trial(number), {i: float(i + number) for i in range(10, end + 1, 10)})
        record.reconcile()
    return study


def files(study: StudyDirectory) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in study.root.rglob("*") if path.is_file()}


@DAMAGES
@pytest.mark.parametrize("behind", [0, 1, 4, -1])
def test_a_bad_line_in_the_middle_is_named_and_nothing_is_written(
    study: StudyDirectory, damage: bytes, behind: int
) -> None:
    lines = study.journal.read_bytes().splitlines(keepends=True)
    at = len(lines) + behind if behind < 0 else behind
    study.journal.write_bytes(b"".join([*lines[:at], damage, *lines[at:]]))
    before = files(study)
    for action in (lambda: study_status(study.root), lambda: open_record(study)):
        with pytest.raises(StudyError, match=r"optuna\.journal") as caught:
            action()
        assert f"line {at + 1}" in str(caught.value) or at == 0, "a journal that begins no study is lost"
        assert "backup" in str(caught.value)
        assert "raytune-m2f export" in str(caught.value)
    assert files(study) == before
    study.journal.write_bytes(b"".join(lines))  # what it says
    assert study_status(study.root).counts == {"complete": 1, "unfinished": 1}


@pytest.mark.parametrize("damage", ENDS.values(), ids=ENDS)
def test_a_bad_end_is_not_read_and_is_cut_and_kept_when_the_study_goes_on(
    study: StudyDirectory, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    good = study.journal.read_bytes()
    expected = study_status(study.root)
    study.journal.write_bytes(good + damage)
    before = files(study)
    assert study_status(study.root) == expected
    assert files(study) == before
    record = open_record(study)
    assert study.journal.read_bytes() == good
    assert (study.root / "optuna.journal.damaged-1").read_bytes() == damage
    assert "kept as optuna.journal.damaged-1" in caplog.text
    record.absorb(1, report(40, 41.0))
    assert study_status(study.root).trials[1].iteration == 40
    with study.journal.open("ab") as file:
        file.write(damage)
    open_record(study)
    assert (study.root / "optuna.journal.damaged-2").read_bytes() == damage


def test_what_a_cut_end_said_is_told_again_by_the_directories(study: StudyDirectory) -> None:
    """A crash has turned the last block into zeros."""
    expected = study_status(study.root)
    whole = study.journal.read_bytes()
    study.journal.write_bytes(whole[:-900] + b"\0" * 900)
    record = open_record(study)
    assert record.reconcile() == [1]
    assert study_status(study.root) == expected


@pytest.mark.parametrize("left", [None, b"", b"\0" * 100, b"garbage\n", b'{"op_code":0,"worker'])
def test_a_lost_journal_is_not_begun_anew_over_old_trials(study: StudyDirectory, left: bytes | None) -> None:
    study.journal.unlink()
    if left is not None:
        study.journal.write_bytes(left)
    before = files(study)
    for action in (lambda: study_status(study.root), lambda: open_record(study), lambda: known(study)):
        with pytest.raises(
            StudyError, match=r"has no record: optuna\.journal (is missing|is empty|lacks its first line)"
        ):
            action()
    with pytest.raises(StudyError, match="is a study already"):
        create_study(study.root, config(), space(), settings())
    assert files(study) == before


def known(study: StudyDirectory) -> None:
    knowledge_of([study.root], config(), space(), settings())


def test_a_journal_without_its_first_line_is_lost(study: StudyDirectory) -> None:
    study.journal.write_bytes(study.journal.read_bytes().split(b"\n", 1)[1])
    with pytest.raises(StudyError, match=r"optuna\.journal lacks its first line.* Restore the record from a backup"):
        open_record(study)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32-be", "utf-7"])
def test_a_journal_in_another_encoding_is_no_record(study: StudyDirectory, encoding: str) -> None:
    before = study.journal.read_text().encode(encoding)
    study.journal.write_bytes(before)
    for action in (lambda: study_status(study.root), lambda: open_record(study)):
        with pytest.raises(StudyError, match=r"optuna\.journal"):
            action()
    assert study.journal.read_bytes() == before


def test_a_mark_and_line_ends_of_another_system_change_nothing(study: StudyDirectory) -> None:
    expected = study_status(study.root)
    study.journal.write_bytes(b"\xef\xbb\xbf" + study.journal.read_bytes().replace(b"\n", b"\r\n"))
    assert study_status(study.root) == expected
    assert open_record(study).reconcile() == [1]


@pytest.mark.parametrize("left", [None, b"", b'{"op_code":0,"worker', b"\0" * 100])
def test_a_study_that_was_killed_before_its_first_trial_begins(tmp_path: Path, left: bytes | None) -> None:
    study = new_study(tmp_path)
    if left is not None:
        study.journal.write_bytes(left)
    record = open_record(study)
    record.absorb(record.ask(), report(10, 1.0))
    assert study_status(study.root).counts == {"unfinished": 1}


def test_a_line_that_went_missing_is_noticed_by_the_trials_that_it_shifts(study: StudyDirectory) -> None:
    """Optuna would give what trial 1 reported to nobody, without a word."""
    lines = study.journal.read_bytes().splitlines(keepends=True)
    second = [number for number, line in enumerate(lines) if json.loads(line)["op_code"] == 4][1]
    study.journal.write_bytes(b"".join(lines[:second] + lines[second + 1 :]))
    with pytest.raises(StudyError, match=rf"line {second + 1}, is damaged \(it is of a study or a trial that no line"):
        study_status(study.root)


def test_on_a_store_what_is_cut_is_kept_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore(tmp_path / "store", monkeypatch)
    study = create_study(ADDRESS, config(), space(), settings())
    with study.locked():
        open_record(study).ask()
        with study.journal.open("ab") as file:
            file.write(b"garbage\n")
    again = StudyDirectory.at(ADDRESS)
    with again.locked():
        open_record(again)
    assert (store.root / "bucket/study/optuna.journal.damaged-1").read_bytes() == b"garbage\n"
    assert b"garbage" not in (store.root / "bucket/study/optuna.journal").read_bytes()


def test_a_sound_journal_is_left_as_it_is(study: StudyDirectory) -> None:
    found = Journal.read(study.journal)
    assert (found.damage, found.has_study, found.end) == (None, True, found.size)
    assert found.cut() is None
    assert sorted(path.name for path in study.root.glob("optuna*")) == ["optuna.journal"]


# Trials that a shorter record does not know


def restored(study: StudyDirectory, trials: int) -> None:
    """As if a backup of so many trials had been restored."""
    lines = study.journal.read_bytes().splitlines(keepends=True)
    begun = [number for number, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    study.journal.write_bytes(b"".join(lines[: begun[trials]]))


def write_config(study: StudyDirectory, number: int, values: dict[str, float]) -> None:
    (study.trial(number) / "config.yaml").write_text(config().with_values(values).to_yaml())


def test_a_number_given_out_again_goes_on_if_its_values_are_the_same(study: StudyDirectory) -> None:
    values = dict(open_record(study).trial(1).params)
    write_config(study, 1, values)
    restored(study, 1)
    record = open_record(study)
    number = record.ask()
    set_aside_others(record, number)
    assert (number, record.trial(number).params) == (1, values)
    assert record.reconcile() == [1]
    assert record.trial(1).last_step == 30


def test_a_training_with_other_values_is_set_aside_whole(
    study: StudyDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    write_config(study, 1, {LR: 7e-5})
    left = {path.name: path.read_bytes() for path in study.trial(1).rglob("*") if path.is_file()}
    restored(study, 1)
    record = open_record(study)
    set_aside_others(record, record.ask())
    assert not study.trial(1).exists()
    aside = study.root / "set_aside" / "0001-1"
    assert {path.name: path.read_bytes() for path in aside.rglob("*") if path.is_file()} == left
    assert str(aside) in caplog.text
    assert record.reconcile() == [1]
    assert record.trial(1).last_step is None
    shutil.copytree(aside, study.trial(1))
    (study.trial(1) / "config.yaml").write_text("no: [yaml")
    set_aside_others(record, 1)
    assert (study.root / "set_aside" / "0001-2").is_dir()
