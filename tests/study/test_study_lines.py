"""A study in lines: how far its running trials are, how to go on with it, and no success where nothing was found."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from fake_study import MAX_ITER, half_done_study, leave_reports, new_study, open_record, settings
from typer.testing import CliRunner

from raytune_m2f import Study
from raytune_m2f.cli.main import app
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.lines import StudyLines, closing_words, status_caption, study_lines
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.study.status import StatusReader, study_status


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyDirectory:
    monkeypatch.chdir(tmp_path)
    return half_done_study(tmp_path)


def running(study: StudyDirectory) -> Record:
    return open_record(study)


def test_lines_say_how_far_running_trials_are(study: StudyDirectory) -> None:
    status = StatusReader(running(study)).read(driver="this process")
    assert study_lines(status, 65.0, 130.0) == [
        f"study {study.root.name}: 1 of 4 trials ended, best segm/AP 5.00 (trial 0), running for 1:05, about 2:10 left",
        f"  trial 1 at 25/{MAX_ITER}, loss 31.25, last segm/AP 5.00",
    ]


def test_lines_say_how_many_wait_at_a_rung(tmp_path: Path) -> None:
    record = open_record(new_study(tmp_path, settings(trials=4, early_stopping=EarlyStopping(method="promotion"))))
    number = record.ask()
    leave_reports(record.directory.trial(number), {record.index.grace: 5.0})
    record.settle(number)
    [line, *_] = study_lines(StatusReader(record).read(driver="this process"), 65.0, None)
    assert "0 of 4 trials ended, 1 wait at a rung, best segm/AP 5.00 (trial 0), " in line


def test_they_come_by_themselves() -> None:
    beaten = threading.Event()

    class Noted(StudyLines):
        def beat(self, seconds: float) -> None:
            beaten.set()

    with Noted(interval=0.001):
        assert beaten.wait(60)


def test_a_running_study_says_how_long_still_and_a_killed_one_how_to_go_on(study: StudyDirectory) -> None:
    with study.locked():
        assert f"\nabout {study_status(study.root).seconds_left:.0f}"[:7] in status_caption(study_status(study.root))
        assert "left" in status_caption(study_status(study.root)).splitlines()[-1]
        assert "raytune-m2f resume" not in status_caption(study_status(study.root))
    assert status_caption(study_status(study.root)).endswith(
        f"\nnobody runs it; to go on with it: raytune-m2f resume {study.root.name}"
    )


# At the end


def said(root: Path, *scores: float, **asked: Any) -> str | None:
    """Of a study whose trials have these scores."""
    study = new_study(root, settings(trials=9, early_stopping=EarlyStopping(method="none"), **asked))
    record = open_record(study)
    for score in scores:
        leave_reports(study.trial(record.ask()), {80: score})
        record.reconcile()
    if not scores:
        record.ask()
    return closing_words(study_status(study.root))


def test_the_best_trial_can_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(tmp_path, 0.0, 30.0) == "export the best trial: raytune-m2f export study --output DIR"


def test_a_single_trial_has_a_score(tmp_path: Path) -> None:
    assert "export the best trial" in (said(tmp_path, 12.0) or "")


@pytest.mark.parametrize("scores", [(0.0,), (0.0, 0.0, 0.0), (0.0, 0.004)])
def test_who_found_nothing_is_no_success(tmp_path: Path, scores: tuple[float, ...]) -> None:
    words = said(tmp_path, *scores) or ""
    assert words.startswith("no trial has found anything: the best segm/AP is 0.00, so the search has learned nothing")
    assert "SOLVER.MAX_ITER" in words
    assert "metrics.jsonl" in words
    assert "export" not in words


def test_a_flat_study_says_what_is_climbed_and_names_no_best_trial(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9, early_stopping=EarlyStopping(method="none")))
    record = open_record(study)
    for loss in (40.0, 20.0, 30.0):
        leave_reports(study.trial(record.ask()), {80: 0.0}, loss=loss)
        record.reconcile()
    status = study_status(study.root)
    assert status.found_nothing
    words = closing_words(status) or ""
    assert "only the training losses told its trials apart (trial 1 has the lowest)" in words
    assert "0001/metrics.jsonl" in words
    caption = status_caption(status)
    assert "no trial has found anything so far" in caption
    assert "best:" not in caption
    assert "segm/AP is flat (below 0.1) at the latest report of 3 of 3 trials" in caption
    assert "training loss" in caption
    assert "best" not in study_lines(status, 1.0, None)[0]


def test_a_study_that_found_nothing_ends_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said(tmp_path, 0.0, 0.0)
    monkeypatch.setattr("raytune_m2f.resume", lambda study, **_: Study(study))
    ended = CliRunner().invoke(app, ["resume", str(tmp_path / "study")])
    assert ended.exit_code == 1
    assert "no trial has found anything" in " ".join(ended.output.split())
    assert "export" not in ended.output


def test_equal_scores_choose_nobody(tmp_path: Path) -> None:
    words = said(tmp_path, 7.0, 7.0, 7.0) or ""
    assert words.startswith("all 3 trials have the same segm/AP, 7.00: none is better than another")
    assert "export" not in words


def test_zero_is_a_good_score_of_what_should_be_low(tmp_path: Path) -> None:
    assert "export the best trial" in (said(tmp_path, -1.0, 0.0, metrics=("-segm/AP",)) or "")


def test_without_weights_there_is_nothing_to_say(tmp_path: Path) -> None:
    assert said(tmp_path) is None
