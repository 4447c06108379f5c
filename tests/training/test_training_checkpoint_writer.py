"""Checkpoints that are written while training goes on: what is in them, what goes wrong, and what a kill costs."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from patience import PATIENCE_S
from report_cases import same

from raytune_m2f.config import Config
from raytune_m2f.errors import CheckpointError, TrainingError
from raytune_m2f.training import checkpoint
from raytune_m2f.training.checkpoint import Checkpoint, CheckpointWriter
from raytune_m2f.training.reports import Report, TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

KILLED = """
import os, sys, threading
from pathlib import Path
from raytune_m2f.config import load_config
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial

output, victim, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
told, save = threading.Event(), checkpoint.save

def killed(state, path):
    if path.name == victim:
        assert told.wait(600)  # the report is known
        if moment == "before the rename":
            path.with_name(f".{path.name}.{'0' * 12}.raytune_m2f.tmp").write_bytes(b"half of it")
        else:
            save(state, path)
        os._exit(9)
    save(state, path)

checkpoint.save = killed
train_trial(load_config(output / "given.yaml"), TrialContext(output, report=lambda report: told.set()))
"""


def state(iteration: int) -> Checkpoint:
    weight = torch.full((2,), float(iteration))
    return {"model": {"weight": weight}, "config": {}, "categories": {}, "report": None, "iteration": iteration}


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is written before it is set."""
    opened, save = threading.Event(), checkpoint.save

    def waiting(*args: Any) -> None:
        assert opened.wait(PATIENCE_S)
        save(*args)

    monkeypatch.setattr(checkpoint, "save", waiting)
    return opened


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)


def test_what_is_written_is_what_was_given(tmp_path: Path, gate: threading.Event) -> None:
    given = state(5)
    with CheckpointWriter(tmp_path) as writer:
        writer.write(given, best=True)
        given["model"]["weight"].zero_()  # the next step
        assert not list(tmp_path.iterdir())
        gate.set()
    assert checkpoint.load(tmp_path / "iter_0000005.pth")["model"]["weight"].tolist() == [5, 5]
    assert checkpoint.load(tmp_path / "best.pth").keys() == set(checkpoint.PORTABLE)


def test_a_second_one_waits_for_the_first(tmp_path: Path, gate: threading.Event) -> None:
    with CheckpointWriter(tmp_path) as writer:
        writer.write(state(5), best=False)
        threading.Timer(0.1, gate.set).start()
        writer.write(state(10), best=False)
        assert (tmp_path / "iter_0000005.pth").exists()
    assert (tmp_path / "iter_0000010.pth").exists()


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_is_told_at_the_next_call_or_at_the_end(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path) as writer:
        writer.write(state(5), best=False)
        with pytest.raises(CheckpointError, match="No space left"):
            writer.write(state(10), best=False)
    with pytest.raises(CheckpointError, match="No space left"), CheckpointWriter(tmp_path) as writer:
        writer.write(state(5), best=False)


@pytest.mark.usefixtures("full_disk")
def test_a_full_disk_does_not_hide_what_ended_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def run() -> None:
        with CheckpointWriter(tmp_path) as writer:
            writer.write(state(5), best=False)
            raise TrainingError("the reason")

    with pytest.raises(TrainingError, match="the reason"):
        run()
    assert "No space left" in caplog.text


@pytest.mark.usefixtures("full_disk")
def test_a_trial_whose_last_checkpoint_cannot_be_written_has_failed(tiny_config: Config, tmp_path: Path) -> None:
    def report(report: Report) -> bool:
        raise AssertionError("it is not told")

    config = tiny_config.with_values({"SOLVER.MAX_ITER": 1})
    with pytest.raises(CheckpointError, match="No space left"):
        train_trial(config, TrialContext(tmp_path, report=report))
    assert read_reports(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("best.pth", "before the rename"),
        ("best.pth", "after the rename"),
        ("iter_0000002.pth", "before the rename"),
        ("iter_0000002.pth", "after the rename"),
    ],
)
def test_a_kill_while_it_is_written_changes_nothing(
    tiny_config: Config, tmp_path: Path, victim: str, moment: str
) -> None:
    config = tiny_config.with_values({"SOLVER.CHECKPOINT_PERIOD": 1, "SOLVER.MAX_ITER": 3})
    train_trial(config, TrialContext(tmp_path / "whole"))
    output = tmp_path / "killed"
    output.mkdir()
    (output / "given.yaml").write_text(config.to_yaml())
    run = subprocess.run([sys.executable, "-c", KILLED, str(output), victim, moment], capture_output=True, text=True)
    assert run.returncode == 9, run.stderr
    assert [report["iteration"] for report in read_reports(output)] == [2]
    newest = checkpoint.load_newest(output / "checkpoints")
    assert newest is not None
    assert newest["iteration"] == (2 if (victim, moment) == ("iter_0000002.pth", "after the rename") else 1)

    train_trial(config, TrialContext(output))

    assert [same(report) for report in read_reports(output)] == [same(r) for r in read_reports(tmp_path / "whole")]
    for name in ("best.pth", "iter_0000003.pth"):
        ours, theirs = (checkpoint.load(folder / "checkpoints" / name) for folder in (output, tmp_path / "whole"))
        assert same(ours["report"]) == same(theirs["report"])
        assert all(torch.equal(value, theirs["model"][key]) for key, value in ours["model"].items())
    assert not [path for path in (output / "checkpoints").iterdir() if path.suffix == ".tmp"]
