"""A study that an earlier version made goes on: its plan, its record and its checkpoints are still read.

stored/study_e848991.tar.xz is of the version of 2026-11-26 before the modules were moved: `tune` on the shapes below
with a budget of 10 iterations. Trial 0 is complete (8 of 8 iterations); trial 1 was stopped in the middle, with a
checkpoint of iteration 4 while the record knows its report at 2 only. To be small, all weights were set to zero.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raytune_m2f.cli.main import app
from raytune_m2f.data import generate_shapes

STORED = Path(__file__).parent / "stored" / "study_e848991.tar.xz"
OLD_ROOT = "/OLD"  # the folder of the study and its data, then

ONLY_DATA: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on


@pytest.fixture
def older(tmp_path: Path) -> Path:
    generate_shapes(tmp_path / "data", train_images=12, val_images=6, image_size=64, max_instances=4)
    with tarfile.open(STORED) as packed:
        packed.extractall(tmp_path, **ONLY_DATA)
    for file in (path for path in (tmp_path / "study").rglob("*") if path.is_file() and path.suffix != ".pth"):
        file.write_text(file.read_text(encoding="utf-8").replace(OLD_ROOT, str(tmp_path)), encoding="utf-8")
    return tmp_path / "study"


def run(*arguments: str | Path) -> str:
    ran = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def trials(study: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("status", study, "--json"))["trials"]
    return found


def reports(study: Path, number: int) -> list[dict[str, Any]]:
    lines = (study / f"trials/{number:04d}/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_it_is_read(older: Path) -> None:
    complete, unfinished = trials(older)
    assert (complete["state"], complete["iteration"]) == ("complete", 8)
    assert complete["best"] == pytest.approx(0.2244, abs=1e-4)
    assert (unfinished["state"], unfinished["iteration"]) == ("unfinished", 2)


def test_it_goes_on_from_the_checkpoint_and_is_exported(ray_cluster: None, older: Path) -> None:
    before, known = trials(older)[0], reports(older, 1)
    run("extend", older, "--iterations", "8")
    complete, continued, *_ = trials(older)
    assert complete == before
    assert (continued["state"], continued["iteration"]) == ("complete", 8)
    assert [report["iteration"] for report in reports(older, 1)] == [2, 4, 6, 8]
    assert reports(older, 1)[:2] == known  # not trained again: with weights of zero they would be others
    # the weights of its first reports are zeros now
    run("export", older, "--trial", "1", "--skip-verify", "--output", older.parent / "model")
    assert (older.parent / "model" / "model.pth").is_file()
