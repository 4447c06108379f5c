"""The table's curves are what trials report, and the collected file holds what the folders do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import curves
from raytune_m2f.data import generate_shapes
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

FORMER = "MODEL.MASK_FORMER"
TINY = curves.Task(
    "demo",
    (
        "SOLVER.MAX_ITER=4", "SOLVER.IMS_PER_BATCH=2", "SOLVER.CHECKPOINT_PERIOD=4",
        "TEST.EVAL_PERIOD=2", "TEST.BOOTSTRAP=0",
        "INPUT.IMAGE_SIZE=64", "INPUT.MIN_SIZE_TEST=64", "INPUT.MAX_SIZE_TEST=64", f"{FORMER}.TRAIN_NUM_POINTS=32",
    ),
    {"SOLVER.BASE_LR": curves.LR, f"{FORMER}.CLASS_WEIGHT": {"type": "loguniform", "low": 0.5, "high": 8.0}},
    4,
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with a few shapes, of which "shapes" is made."""
    monkeypatch.setitem(curves.TASKS, "shapes", TINY)
    folder = tmp_path / "data"
    generate_shapes(folder, train_images=4, val_images=2, image_size=64)
    (folder / "test.json").write_bytes((folder / "val.json").read_bytes())
    (folder / "test").symlink_to("val")
    return tmp_path


def test_a_curve_is_what_a_trial_reports(tiny: Path) -> None:
    values = {"SOLVER.BASE_LR": 3e-3, f"{FORMER}.CLASS_WEIGHT": 4.0}
    curve = curves.train_point("shapes", tiny, values, seed=3, device=torch.device("cpu"))["reports"]
    trial = tiny / "trial"
    train_trial(curves.config_of("shapes", tiny, values, seed=3), TrialContext(trial, device=torch.device("cpu")))
    reports = read_reports(trial)
    assert [report["iteration"] for report in curve] == [2, 4]
    for got, wanted in zip(curve, reports, strict=True):
        assert got["AP"] == wanted["segm/AP"]
        assert got["train"] == pytest.approx(wanted["loss"])
    assert any(report["IoU"] > 0 for report in curve)
    assert all(report["test AP"] == report["AP"] for report in curve)  # the same images here


def test_points_are_the_same_each_time_and_lie_in_the_space() -> None:
    for name, task in curves.TASKS.items():
        first = list(curves.points(task))
        assert first == list(curves.points(task))
        assert [number for number, _ in first] == list(range(-1, task.points)), name
        space = curves.space_of(task)
        assert all(not space.contains(values) for _, values in first)


def row(point: int, seed: int, values: dict[str, Any], reports: int = 2) -> dict[str, Any]:
    told = [{"iteration": 2 * n, "AP": 10.0 * n, "test AP": 9.0, "loss": 1.23456, "train": 2.0, "IoU": 1.0}
            for n in range(1, reports + 1)]  # fmt: skip
    return {"point": point, "seed": seed, "values": values, "device": "cpu", "seconds": 1.0, "reports": told}


def test_a_collected_table_holds_what_the_folders_do(tiny: Path) -> None:
    values = {"SOLVER.BASE_LR": 3e-3, f"{FORMER}.CLASS_WEIGHT": 4.0}
    rows = [row(-1, 0, {}), row(0, 0, values), {**row(0, 1, values, reports=0), "failure": "NonFiniteLossError"}]
    folder = tiny / "points"
    folder.mkdir()
    for one in rows:
        (folder / f"{one['point']}-{one['seed']}.json").write_text(json.dumps(one))
    file = tiny / "tables" / "shapes.json"
    assert curves.collect("shapes", [folder, folder], file) == len(rows)  # each once
    found = list(curves.rows_of(file))
    assert [(one["point"], one["seed"], one["values"]) for one in found] == [
        (-1, 0, {}),
        (0, 0, values),
        (0, 1, values),
    ]
    assert found[0]["reports"][1] == {"iteration": 4, "AP": 20.0, "test AP": 9.0, "loss": 1.235, "train": 2.0}
    assert found[2]["reports"] == []
    assert found[2]["failure"]
    (folder / "0-0.json").unlink()
    todo = [one[:2] for one in curves.missing("shapes", [folder])]
    assert (0, 0) in todo
    assert [one[:2] for one in curves.missing("shapes", [folder, file])] == [one for one in todo if one != (0, 0)]


@pytest.mark.parametrize("name", [file.stem for file in curves.TABLES.glob("*.json")])
def test_a_table_that_is_shipped_is_small_and_of_its_task(name: str) -> None:
    file = curves.TABLES / f"{name}.json"
    assert file.stat().st_size < 200_000
    task, values = curves.TASKS[name], dict(curves.points(curves.TASKS[name]))
    for one in curves.rows_of(file):
        assert one["values"] == values[one["point"]]
        assert [report["iteration"] for report in one["reports"]] in ([], json.loads(file.read_text())["iterations"])
    assert json.loads(file.read_text())["overrides"] == list(task.overrides)
