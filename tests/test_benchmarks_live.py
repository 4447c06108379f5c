"""Live studies: what is noted while they run, and what comes of their results; nothing is trained here."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import curves, live
from raytune_m2f.data import generate_shapes
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import TrialContext, read_reports


def status(used: int, trial: int | None, iteration: int = 0, score: float = 0.0) -> Any:
    best = None if trial is None else SimpleNamespace(number=trial, best_iteration=iteration, best=score)
    return SimpleNamespace(usage={"iterations": float(used)}, best_trial=best)


def test_a_course_notes_each_change_once_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "course.jsonl"
    course = live.Course(file)
    for used, trial, iteration, score in [(30, 0, 30, 1.0), (30, 0, 30, 1.0), (60, 0, 60, 2.0), (90, 0, 60, 2.0)]:
        course.update(status(used, trial, iteration, score))
    again = live.Course(file)
    again.update(status(90, 0, 60, 2.0))
    again.update(status(120, None))
    again.update(status(150, 1, 30, 3.0))
    noted = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(one["used"], one["trial"], one["iteration"]) for one in noted] == [(30, 0, 30), (60, 0, 60), (150, 1, 30)]


def test_every_best_checkpoint_of_a_trial_is_kept_and_scored_on_the_test_images(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = curves.Task(
        "demo",
        (
            "SOLVER.MAX_ITER=4", "SOLVER.IMS_PER_BATCH=2", "TEST.EVAL_PERIOD=2", "TEST.BOOTSTRAP=0",
            "INPUT.IMAGE_SIZE=64", "MODEL.MASK_FORMER.TRAIN_NUM_POINTS=32",
        ),
        {"SOLVER.BASE_LR": curves.LR},
        4,
    )  # fmt: skip
    monkeypatch.setitem(curves.TASKS, "shapes", task)
    generate_shapes(tmp_path / "data", train_images=4, val_images=2, image_size=64)
    (tmp_path / "data" / "test.json").write_bytes((tmp_path / "data" / "val.json").read_bytes())
    (tmp_path / "data" / "test").symlink_to("val")
    config = curves.config_of("shapes", tmp_path, {"SOLVER.BASE_LR": 1e-3}, seed=0)
    trial = tmp_path / "auto" / live.STUDY / "trials" / "0003"
    live.kept(config, TrialContext(trial, metric=Objective.parse("segm/AR100")))
    reports = {report["iteration"]: report for report in read_reports(trial)}
    best = [2, 4] if reports[4]["segm/AR100"] > reports[2]["segm/AR100"] else [2]
    course = [{"trial": 3, "iteration": iteration} for iteration in (*best, 3)]
    scores = live.scored(tmp_path, "auto", course)
    assert scores == [pytest.approx(reports[iteration]["segm/AP"]) for iteration in best] + [None]


def result(seed: int, arm: str, *scores: float | None) -> dict[str, Any]:
    course = [{"used": 30 * n, "trial": 0, "iteration": 30 * n, "test AP": one} for n, one in enumerate(scores, 1)]
    return {"arm": arm, "seed": seed, "trials": 3, "seconds": 10.0, "training_seconds": 8.0, "course": course}


def test_the_score_at_a_moment_is_that_of_the_last_checkpoint_before_it() -> None:
    found = live.scores_at(result(0, "auto", 5.0, None, 7.0), [15, 30, 60, 90, 120])
    assert found.tolist() == [0, 5, 5, 7, 7]


def test_only_seeds_with_every_arm_are_compared_and_in_pairs(tmp_path: Path) -> None:
    told = {0: ((1.0, 2, 3), (2.0, 4, 4)), 1: ((1.0, 1, 1), (3.0, 3, 3)), 2: ((5.0, 5, 5), (1.0, 1, 2))}
    for seed, (random, auto) in told.items():
        folder = tmp_path / f"seed-{seed}"
        folder.mkdir()
        (folder / "random.json").write_text(json.dumps(result(seed, "random", *random)))
        (folder / "auto.json").write_text(json.dumps(result(seed, "auto", *auto)))
    (tmp_path / "seed-3").mkdir()
    (tmp_path / "seed-3" / "random.json").write_text(json.dumps(result(3, "random", 9.0)))
    found = live.summary(tmp_path, ["random", "auto"], iterations=90)
    assert found["seeds"] == ["0", "1", "2"]
    against = found["arms"]["auto"]["against"]["random"]
    assert against["difference"].tolist() == [-1 / 3, 0, 0]
    assert against["half_width"][-1] == pytest.approx(4.3027 * np.std([1, 2, -3], ddof=1) / math.sqrt(3), rel=1e-4)
    assert against["reaches"] == [60, 30, None]
    assert found["arms"]["auto"]["overhead"] == 2.0
    text = list(live.lines(found))
    assert any("1 of 3 seeds never reach" in line for line in text)


def test_without_a_whole_seed_nothing_is_said(tmp_path: Path) -> None:
    assert live.summary(tmp_path, list(live.ARMS), iterations=90)["arms"] == {}
