"""Checkpoints and the reports' file, each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytune_m2f.errors import CheckpointError
from raytune_m2f.training import checkpoint
from raytune_m2f.training import reports as metrics
from raytune_m2f.training.reports import Report


def _state(iteration: int) -> checkpoint.Checkpoint:
    return {"model": {"weight": torch.full((2,), float(iteration))}, "iteration": iteration}


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        checkpoint.save_iteration(_state(iteration), tmp_path)
    assert [path.name for path in checkpoint.newest_first(tmp_path)] == ["iter_0000015.pth", "iter_0000010.pth"]


def test_checkpoints_that_somebody_needs_are_kept(tmp_path: Path) -> None:
    for iteration in (5, 10, 15, 20, 25):
        checkpoint.save_iteration(_state(iteration), tmp_path, frozenset({5, 15, 99}))
    assert [checkpoint.load(path)["iteration"] for path in checkpoint.newest_first(tmp_path)] == [25, 20]
    kept = [checkpoint.rung_file(tmp_path, iteration) for iteration in (5, 15)]
    assert sorted(tmp_path.glob("rung_*.pth")) == kept
    assert [checkpoint.load(path)["iteration"] for path in kept] == [5, 15]


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for iteration in (5, 10):
        checkpoint.save_iteration(_state(iteration), tmp_path)
    newest = tmp_path / "iter_0000010.pth"
    newest.write_bytes(newest.read_bytes()[:-200])
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["iteration"] == 5
    assert "iter_0000010.pth" in caplog.text
    assert checkpoint.load_newest(tmp_path / "empty") is None


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best.pth"
    checkpoint.save(_state(5), path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left.*Free space"):
        checkpoint.save(_state(10), path)
    assert checkpoint.load(path)["iteration"] == 5
    assert [file.name for file in tmp_path.iterdir()] == ["best.pth"]


def report(iteration: int, **others: Any) -> Report:
    return {"iteration": iteration, "seconds": 1.0, **others}


def test_reports_after_the_checkpoint_are_taken_back(tmp_path: Path) -> None:
    for iteration in (5, 10, 15):
        metrics.append_report(tmp_path, report(iteration))
    with (tmp_path / metrics.METRICS).open("a") as file:
        file.write('{"iteration": 2')  # a kill while it wrote
    metrics.rewind(tmp_path, report(10, again=True))
    assert metrics.read_reports(tmp_path) == [report(5), report(10, again=True)]
    metrics.rewind(tmp_path, None)
    assert metrics.read_reports(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        b"[1]", b"null", b"3", b'"text"', b"\xff\xfe", b"{", b"{}", b'{"iteration": 7}',
        b'{"iteration": "7", "seconds": 1}',
        b'{"iteration": 7.5, "seconds": 1}', b'{"iteration": true, "seconds": 1}', b'{"iteration": 7, "seconds": null}',
        b'{"iteration": 7, "seconds": 1, "images": "all"}', b'{"iteration": 7, "seconds": 1, "segm/AP": [3]}',
        b'{"iteration": 7, "seconds": 1, "loss": ' + b"9" * 5000 + b"}", b"[" * 200_000, b"\0\0\0",
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_and_the_others_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    for iteration in (5, 10):
        metrics.append_report(tmp_path, report(iteration))
        with (tmp_path / metrics.METRICS).open("ab") as file:
            file.write(line + b"\n")
    assert metrics.read_reports(tmp_path) == [report(5), report(10)]
    assert "line 2 is no whole report and is left out" in caplog.text


def test_damaged_checkpoints_are_named_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint.save_iteration(_state(5), tmp_path)
    (tmp_path / "iter_0000010.pth").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["iteration"] == 5
    assert "Git LFS pointer" in caplog.text
