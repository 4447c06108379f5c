from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from fake_study import LR, MAX_ITER, leave_reports, new_study, open_record, report, settings
from rich.console import Console

from raytune_m2f.errors import DatasetError, StudyError
from raytune_m2f.training.trial_dir import write_failure
from raytune_m2f.tuning.progress import StudyProgress, status_table
from raytune_m2f.tuning.runner import enqueue_points
from raytune_m2f.tuning.status import StudyStatus, best_trial, study_status
from raytune_m2f.tuning.study import StudyDirectory


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    """One trial of each state: complete, stopped, failed, running, waiting."""
    study = new_study(tmp_path, settings(trials=9))
    record = open_record(study)
    for values in ([float(i) for i in range(9, 1, -1)], [1.0]):
        number = record.ask()
        for i, value in enumerate(values):
            leave_reports(study.trial(number), {10 * (i + 1): value})
            record.absorb(number, report(10 * (i + 1), value))
        record.settle(number)
    failed = record.ask()
    study.trial(failed).mkdir()
    write_failure(study.trial(failed), DatasetError("annotation 7 has label 9"))
    record.settle(failed)
    running = record.ask()
    record.absorb(running, report(10, 99.0))  # no weights on disk
    enqueue_points(record)
    return study


def states(status: StudyStatus) -> list[str]:
    return [trial.state for trial in status.trials]


def test_states_without_and_with_a_driver(study: StudyDirectory) -> None:
    assert states(study_status(study.root)) == ["complete", "stopped", "failed", "unfinished", "waiting"]
    with study.locked():
        status = study_status(study.root)
    assert states(status) == ["complete", "stopped", "failed", "running", "waiting"]
    assert "process" in (status.driver or "")


def test_a_trial_in_full(study: StudyDirectory) -> None:
    trial = study_status(study.root).trials[0]
    assert (trial.iteration, trial.max_iter) == (MAX_ITER, MAX_ITER)
    assert (trial.last, trial.best, trial.best_iteration) == (2.0, 9.0, 10)
    assert trial.seconds == 8.0
    assert list(trial.values) == [LR]
    assert trial.checkpoint == str(study.trial(0) / "checkpoints" / "best.pth")


def test_the_best_trial_has_its_weights(study: StudyDirectory) -> None:
    assert best_trial(study.root).number == 0  # trial 3 has 99, but left no weights
    leave_reports(study.trial(3), {10: 99.0})
    assert best_trial(study.root).number == 3


def test_without_weights_there_is_no_best(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    open_record(study).ask()
    with pytest.raises(StudyError, match=r"has weights to use yet \(1 unfinished\)"):
        best_trial(study.root)


def test_json_has_everything_and_is_strict(study: StudyDirectory) -> None:
    status = study_status(study.root)
    loaded = json.loads(status.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert loaded["best"] == 0
    assert loaded["usage"]["trials"] == 4
    assert loaded["trials"][2]["cause"] == "annotation 7 has label 9"


def test_reading_writes_nothing(study: StudyDirectory) -> None:
    before = study.journal.read_bytes()
    study_status(study.root)
    assert study.journal.read_bytes() == before


def test_the_table_shows_one_row_a_trial(study: StudyDirectory) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(status_table(study_status(study.root)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    for word in ("complete", "stopped", "failed", "unfinished", "waiting", "BASE_", "80/80", "9.00", "0:08"):
        assert word in text
    assert "4 of 9 trials started" in text
    assert "best: trial 0 with segm/AP 9.00" in text
    assert "* the configuration's own values" in text


def test_the_table_fits_a_terminal_of_80_columns(study: StudyDirectory) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print(status_table(study_status(study.root)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    for word in ("complete", "unfinished", "80/80", "9.00", "0:08"):
        assert word in text


def test_without_a_terminal_each_ended_trial_is_one_line(study: StudyDirectory) -> None:
    stream = io.StringIO()
    with StudyProgress(Console(file=stream, width=40)) as progress:
        progress.update(study_status(study.root))
        progress.update(study_status(study.root))
        progress.note("something to know")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("trial 0 complete at 80/80, best segm/AP 9.00 at 10 (SOLVER.BASE_LR=")
    assert lines[1].endswith("[early stopping at 10 of 80 iterations]")
    assert lines[2].endswith("[annotation 7 has label 9]")


def test_on_a_terminal_the_table_is_redrawn(study: StudyDirectory) -> None:
    stream = io.StringIO()
    with StudyProgress(Console(file=stream, width=120, force_terminal=True)) as progress:
        progress.update(study_status(study.root))
    assert "waiting" in stream.getvalue()
