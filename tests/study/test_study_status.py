from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import LR, MAX_ITER, leave_reports, new_study, open_record, report, settings, two_metrics
from optuna.trial import TrialState
from rich.console import Console

from raytune_m2f.cli.tables import status_table, study_progress
from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.errors import DatasetError, StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.lines import status_caption
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.study.status import StatusReader, StudyStatus, study_status
from raytune_m2f.training.trial_dir import write_failure


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
    assert study_status(study.root).trial_to_export().number == 0  # trial 3 has 99, but left no weights
    leave_reports(study.trial(3), {10: 99.0})
    assert study_status(study.root).trial_to_export().number == 3


def test_without_weights_there_is_no_best(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    open_record(study).ask()
    with pytest.raises(StudyError, match=r"has weights to use yet \(1 unfinished\)"):
        study_status(study.root).trial_to_export()


def test_json_has_everything_and_is_strict(study: StudyDirectory) -> None:
    status = study_status(study.root)
    loaded = json.loads(status.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert loaded["best"] == 0
    assert loaded["usage"]["trials"] == 4
    assert loaded["trials"][2]["cause"] == "annotation 7 has label 9"


def test_csv_has_a_line_for_each_trial_and_a_column_for_each_key(study: StudyDirectory) -> None:
    status = study_status(study.root)
    rows = list(csv.DictReader(io.StringIO(status.to_csv())))
    assert [int(row["number"]) for row in rows] == [trial.number for trial in status.trials]
    best = rows[0]
    assert (best["state"], float(best["segm/AP"]), int(best["best_iteration"])) == (status.trials[0].state, 9.0, 10)
    assert float(best[LR]) == status.trials[0].values[LR]
    assert rows[2]["cause"] == "annotation 7 has label 9"
    assert {row[None] for row in rows if None in row} == set(), "as many values as names"


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


def test_a_table_of_few_rows_shows_the_best_and_who_runs(study: StudyDirectory) -> None:
    status = study_status(study.root)
    assert status.best == 0
    status = replace(status, trials=[replace(t, state="running") if t.number == 3 else t for t in status.trials])
    console = Console(file=io.StringIO(), width=160)
    console.print(status_table(status, rows=2))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    rows = [line.split()[0] for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert rows[:2] == ["0", "3"]
    assert "2 of 5 trials" in " ".join(text.split())
    assert "failed" not in text.split("4 of 9")[0], "trial 2 is not among them"


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
    with study_progress(Console(file=stream, width=40)) as progress:
        progress.update(study_status(study.root))
        progress.update(study_status(study.root))
        progress.note("something to know")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("trial 0 complete at 80/80, best segm/AP 9.00 at 10 (SOLVER.BASE_LR=")
    assert lines[1].endswith("[early stopping at 10 of 80 iterations]")
    assert lines[2].endswith("[annotation 7 has label 9]")


def scored(root: Path, *trials: dict[str, Any], **asked: Any) -> StudyStatus:
    """A study whose trials have this one report each."""
    study = new_study(root, settings(trials=9, **asked))
    record = open_record(study)
    for entries in trials:
        number = record.ask()
        leave_reports(study.trial(number), {80: entries["segm/AP"]}, **entries)
        record.settle(number, ended=True)
    return study_status(study.root)


def ap(value: float, error: float = 1.0, **others: float) -> dict[str, float]:
    return {"segm/AP": value, "segm/AP_se": error, **others}


def test_trials_within_the_noise_may_be_as_good(tmp_path: Path) -> None:
    """The error of a difference is sqrt(1 + 1): twice that is 2.83."""
    status = scored(tmp_path, ap(30.0), ap(27.2), ap(27.1), ap(20.0, error=5.0))
    assert status.best == 0
    assert [trial.number for trial in status.within_noise()] == [1, 3]
    assert status.trials[1].standard_error == 1.0
    text = status_caption(status)
    assert "its lead over trial 1, 3 is within the noise of the evaluation (standard error 1.00)" in text
    assert "raytune-m2f confirm" in text


def test_the_noise_is_that_of_the_first_metric(tmp_path: Path) -> None:
    trials = [ap(value, error=9.0) | {"segm/AP_all": value, "segm/AP_all_se": 1.0} for value in (30.0, 28.0, 27.0)]
    status = scored(tmp_path, *trials, metrics=("segm/AP_all", "segm/AP"))
    assert [trial.standard_error for trial in status.trials] == [1.0, 1.0, 1.0]
    assert [trial.number for trial in status.within_noise()] == [1]


def test_without_an_error_nothing_is_said_of_noise(tmp_path: Path) -> None:
    assert scored(tmp_path / "a", {"segm/AP": 30.0}, {"segm/AP": 29.9}).within_noise() == []
    other = scored(tmp_path / "b", ap(30.0), ap(29.9), metrics=("segm/AP + loss",))
    assert other.within_noise() == []
    assert "noise" not in status_caption(other)
    assert scored(tmp_path / "c", ap(30.0)).within_noise() == []


def test_who_breaks_a_constraint_is_neither_the_best_nor_as_good(tmp_path: Path) -> None:
    trials = (ap(31.0, memory_gb=21.0), ap(30.0, memory_gb=20.0), ap(29.0, memory_gb=3.0), ap(29.5, memory_gb=30.0))
    status = scored(tmp_path, *trials, constraints=("memory_gb<=20",))
    assert [trial.feasible for trial in status.trials] == [False, True, True, False]
    assert status.best == 1
    assert [trial.number for trial in status.within_noise()] == [2]


def test_of_several_metrics_the_first_ranks_and_the_others_are_shown(tmp_path: Path) -> None:
    status = scored(tmp_path, ap(30.0, latency_ms=9.0), ap(40.0, latency_ms=20.0), metrics=("segm/AP", "-latency_ms"))
    assert status.best == 1
    assert status.metric == "segm/AP"
    assert [trial.others for trial in status.trials] == [[-9.0], [-20.0]]
    assert json.loads(status.to_json())["metrics"] == ["segm/AP", "-latency_ms"]


def test_a_stopped_trial_of_several_metrics_is_shown_as_stopped(tmp_path: Path) -> None:
    status = scored(tmp_path / "whole", ap(30.0), ap(3.0), metrics=("segm/AP", "-loss"))
    assert states(status) == ["complete", "complete"]  # at the end, nobody is stopped
    study = new_study(tmp_path, two_metrics())
    record = open_record(study)
    for value in (9.0, 1.0):
        number = record.ask()
        record.absorb(number, report(10, value))
    record.settle(number, ended=True)
    assert record.trial(number).state == TrialState.COMPLETE
    assert states(study_status(study.root)) == ["unfinished", "stopped"]


def test_a_trial_that_waits_is_paused_with_and_without_a_driver(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(early_stopping=EarlyStopping(method="promotion")))
    record = open_record(study)
    record.absorb(record.ask(), report(10, 1.0))
    assert states(study_status(study.root)) == ["paused"]
    with study.locked():
        assert states(study_status(study.root)) == ["paused"]


def test_a_reader_notices_weights_that_were_deleted(study: StudyDirectory) -> None:
    reader = StatusReader(open_record(study))
    assert reader.read(None).trials[1].checkpoint is not None
    study.weights(1).unlink()
    assert reader.read(None).trials[1].checkpoint is None
    assert reader.read(None).best == 0


def test_on_a_terminal_the_table_is_redrawn(study: StudyDirectory) -> None:
    stream = io.StringIO()
    with study_progress(Console(file=stream, width=120, force_terminal=True)) as progress:
        progress.update(study_status(study.root))
    assert "waiting" in stream.getvalue()
