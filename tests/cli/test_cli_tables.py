"""Tables of a study, and what follows it while it runs: a table in a terminal, lines elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from fake_study import MAX_ITER, half_done_study, open_record
from rich.console import Console

from raytune_m2f.cli.tables import status_table, study_progress
from raytune_m2f.progress import ProgressFile
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.record import Record
from raytune_m2f.study.status import StatusReader, study_status


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyDirectory:
    monkeypatch.chdir(tmp_path)
    return half_done_study(tmp_path)


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
