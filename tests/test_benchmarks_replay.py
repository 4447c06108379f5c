"""Studies replayed on a table: the nearest point, each once; the budget; the score; and what comes of many studies."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import curves, replay
from benchmarks.replay import ARMS, Point, Replay, Table, first_above, interval, summary

RATE, BATCH = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH"
SPACE = {RATE: curves.LR, BATCH: {"type": "int", "low": 2, "high": 8, "log": True}}
STEPS = np.arange(1, 9) / 8


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "own_values", lambda name: {RATE: 3e-4, BATCH: 4})


def table(points: int = 60) -> Table:
    """Points that are the better the nearer their learning rate is to 2e-3; those far away score 0."""
    task = curves.Task("demo", (), SPACE, points)
    found = []
    for number, values in curves.points(task):
        values = {RATE: 3e-4, BATCH: 4} if number == curves.CONFIG else values
        end = max(0.0, 50 - 40 * abs(math.log10(values[RATE] / 2e-3)))
        val = np.stack([end * STEPS, end * STEPS + 1e-3 * (end > 0)])
        found.append(Point(values, val, val - 1, 20 - val / 10))
    return Table("shapes", curves.space_of(task), tuple(range(30, 241, 30)), tuple(found))


@pytest.mark.parametrize("arm", sorted(ARMS))
def test_a_study_spends_its_budget_and_tries_each_point_once(arm: str) -> None:
    study = Replay(table(), ARMS[arm], seed=0, budget=720).run()
    assert 720 - 30 <= study.used <= 720
    assert study.chosen[0] == 0  # the configuration's own values, whole
    assert study.reports[0] == 8
    assert len(set(study.chosen)) == len(study.chosen)
    steps, scores = np.array(study.course).T
    assert (np.diff(steps) > 0).all()
    assert steps[-1] == study.used
    again = Replay(table(), ARMS[arm], seed=0, budget=720).run()
    assert again.course == study.course
    assert scores.max() <= 50


def test_the_nearest_point_is_taken_and_told() -> None:
    study = Replay(table(), ARMS["random"], seed=1, budget=480)
    study.run()
    told = [trial.params for trial in study.study.get_trials(deepcopy=False) if trial.params]
    assert told == [dict(study.table.points[point].values) for point in study.chosen]


def test_studies_of_a_seed_share_the_draws_and_curves() -> None:
    random, asha = (Replay(table(), ARMS[arm], seed=2, budget=1440).run() for arm in ("random", "random_asha"))
    assert asha.chosen[: len(random.chosen)] == random.chosen
    assert random.seeds == asha.seeds
    assert len(asha.chosen) > len(random.chosen)


def test_an_earlier_study_is_told_and_its_best_point_tried_second() -> None:
    own = table()
    known = replay.earlier_trials(own, own, seed=0, reverse=False)
    assert len(known) > 3
    assert all(trial.user_attrs["prior"].endswith(" of shapes") for trial in known)
    study = Replay(own, ARMS["random_asha"], seed=0, budget=720, earlier=known).run()
    best = max(known, key=lambda trial: trial.values[0])
    assert study.chosen[0] == 0
    assert own.points[study.chosen[1]].values == best.params
    wrong = replay.earlier_trials(own, own, seed=0, reverse=True)
    assert max(wrong, key=lambda trial: trial.values[0]).params != best.params


def test_several_trials_at_once_spend_no_more() -> None:
    study = Replay(table(), ARMS["random_promotion"], seed=0, budget=960, at_once=4).run()
    assert study.used <= 960
    assert len(study.course) == study.used // 30


def test_where_the_metric_is_flat_the_loss_is_climbed() -> None:
    study = Replay(table(), ARMS["random_asha"], seed=0, budget=960).run()
    flat = [trial for trial in study.study.get_trials(deepcopy=False) if "climbed" in trial.user_attrs]
    for trial in flat:
        assert all(0 < score < 0.1 for score in trial.user_attrs["climbed"].values())
        assert all(trial.intermediate_values[int(step)] < 0.1 for step in trial.user_attrs["climbed"])


def test_the_score_is_the_mean_over_seeds_at_the_best_validation() -> None:
    point = Point({}, np.array([[1.0, 5, 4], [3.0, 2, 1]]), np.array([[1.0, 4, 9], [2.0, 8, 9]]), np.zeros((2, 3)))
    assert point.at.tolist() == [1.5, 6, 9]
    assert point.final == 3.0  # 4 of the first, 2 of the second


def test_a_moved_configuration_is_the_point_nearest_to_it() -> None:
    moved = table().moved(1.0)
    assert moved.start != 0
    assert abs(math.log10(moved.own[RATE] / 3e-3)) < 0.5
    assert Replay(moved, ARMS["random"], seed=0, budget=240).run().chosen == [moved.start]


def test_a_moment_counts_if_nothing_falls_below_it_later() -> None:
    grid = np.array([10, 20, 30, 40])
    assert first_above(np.array([1.0, 3, 2, 5]), 3, grid) == 40
    assert first_above(np.array([3.0, 3, 3, 3]), 3, grid) == 10
    assert first_above(np.array([3.0, 3, 3, 2]), 3, grid) is None


def test_the_interval_holds_the_mean() -> None:
    scores = np.random.default_rng(0).normal(5, 2, (400, 3))
    low, high = interval(scores)
    assert ((low < 5.2) & (high > 4.8)).all()
    assert high - low == pytest.approx(np.full(3, 2 * 1.96 * 2 / 20), rel=0.2)


def test_the_summary_is_paired_and_counts_what_never_arrives() -> None:
    moments = np.tile(np.arange(30, 481, 30), (4, 1)) / 10.0
    found = {
        "random": {"AP": moments, "trials": 2.0, "seconds": 0.0},
        "auto": {"AP": moments + np.array([[1], [1], [1], [-40]]), "trials": 2.0, "seconds": 0.0},
    }
    against = summary(table(), found, trainings=2)["arms"]["auto"]["against"]["random"]
    assert against["difference"][-1] == pytest.approx(-9.25)
    assert against["low"][-1] < -9.25 < against["high"][-1]
    assert against["censored"] == 0.25
    assert against["mean_reaches"] is None
    assert against["median_reaches"] == 480


def test_the_command_line_replays_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, said = curves.TASKS["shapes"], list[str]()
    monkeypatch.undo()  # of a real table
    for number, values in list(curves.points(task))[:12]:
        reports = [{"iteration": i, "AP": i / 10, "test AP": i / 10 + number, "loss": 1.0} for i in range(30, 241, 30)]
        row = {"point": number, "seed": 0, "values": values, "reports": reports}
        (tmp_path / f"{number}-0.json").write_text(json.dumps(row))
    words = ["shapes", "--points", str(tmp_path), "--arms", "random", "random_asha", "--studies", "2"]
    output = tmp_path / "out.json"
    replay.main([*words, "--trainings", "2", "--processes", "1", "--output", str(output)], say=said.append)
    assert "12 points" in said[0]
    result = json.loads(output.read_text())
    assert set(result["arms"]) == {"random", "random_asha"}
    assert len(result["arms"]["random"]["regret"]) == 16
