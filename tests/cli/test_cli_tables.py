"""Tables of a study, and what follows it while it runs: a table in a terminal, lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fake_study import MAX_ITER, leave_reports, new_study, open_record, report, settings
from rich.console import Console

from raytune_m2f.cli.tables import status_table, study_progress
from raytune_m2f.progress import ProgressFile
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.record import Record
from raytune_m2f.study.status import StatusReader, study_status


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyDirectory:
    """A complete trial, and one that is at 25 after its report at 10."""
    monkeypatch.chdir(tmp_path)
    study = new_study(tmp_path, settings(trials=4))
    record = open_record(study)
    for end in (MAX_ITER, 10):
        number = record.ask()
        for iteration in range(10, end + 1, 10):
            leave_reports(study.trial(number), {iteration: 5.0})
            record.absorb(number, report(iteration, 5.0))
        if end == MAX_ITER:
            record.settle(number)
    ProgressFile(study.trial(1))(25, MAX_ITER, loss=31.25)
    record.note_session("driver", 21.0)
    return study


def running(study: StudyDirectory) -> Record:
    return open_record(study)


def test_a_console_that_is_no_terminal_gets_them_by_and_by(study: StudyDirectory) -> None:
    status = StatusReader(running(study)).read(driver="this process")
    file = io.StringIO()
    with study_progress(Console(file=file, width=40), interval=1000) as progress:
        progress.beat(30)
        progress.update(status)
        progress.beat(60)
    starting, ended, study_line, trial_line = file.getvalue().splitlines()
    assert starting == "still starting (Ray, then the first trials), for 0:30"
    assert ended.startswith("trial 0 complete at ")
    assert "running for 1:00, about " in study_line
    assert trial_line.startswith("  trial 1 at 25/")


def test_names_of_keys_are_folded_in_a_terminal_only(study: StudyDirectory) -> None:
    status = study_status(study.root)
    names = [str(column.header) for column in status_table(status, folded=False).columns]
    assert "BASE_LR" in names
    assert "BASE_\nLR" in [str(column.header) for column in status_table(status).columns]


def test_a_terminal_shows_that_it_is_starting_and_then_the_table(study: StudyDirectory) -> None:
    file = io.StringIO()
    with study_progress(Console(file=file, width=120, force_terminal=True), interval=1000) as progress:
        progress.beat(12)
        assert "still starting (Ray, then the first trials), for 0:12" in file.getvalue()
        progress.update(StatusReader(running(study)).read(driver="this process"))
        ProgressFile(study.trial(1), interval=0)(33, MAX_ITER)
        progress.beat(14)
    assert f"33/{MAX_ITER}" in file.getvalue()
