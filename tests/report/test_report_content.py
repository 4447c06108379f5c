"""What a study has to tell, by numbers that are counted here again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import MAX_ITER
from report_study import made_study

from raytune_m2f.progress import parse_duration
from raytune_m2f.report.content import Content, interval, read_content
from raytune_m2f.study.commands import given_command
from raytune_m2f.study.settings import Budget


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Content:
    return read_content(made_study(tmp_path_factory.mktemp("content")))


def test_trials_are_ranked_whether_their_weights_are_there_or_not(content: Content) -> None:
    scores = [trial.best or 0.0 for trial in content.ranked]
    assert scores == sorted(scores, reverse=True)
    assert not {4, 6} & {trial.number for trial in content.ranked}
    assert content.own is not None
    assert content.own.number == 0
    shown = [trial.number for trial in content.shown]
    assert shown[:3] == [trial.number for trial in content.ranked[:3]]
    assert set(shown) == {*shown[:3], 0}


def test_what_early_stopping_saved_is_what_was_not_trained(content: Content) -> None:
    early = [trial for trial in content.status.trials if trial.state == "stopped"]
    saved = content.saved
    assert saved is not None
    assert early
    assert saved.trials == len(early)
    assert saved.iterations == sum(MAX_ITER - trial.iteration for trial in early)
    assert saved.share == pytest.approx(saved.iterations / (7 * MAX_ITER))
    assert saved.hours == pytest.approx(saved.iterations / 10 / 3600), "a report comes at a tenth of a second each"
    assert saved.gpu_hours == 0


def test_nothing_is_said_to_be_saved_where_nothing_stops(tmp_path: Path) -> None:
    assert read_content(made_study(tmp_path, trials=2, failed=(), method="none")).saved is None


def test_failures_of_one_cause_stand_together(content: Content) -> None:
    (failure,) = content.failures
    assert failure.trials == [4, 6], "numbers and paths in the message differ, the cause does not"
    assert failure.kind == "ValueError"
    assert failure.cause.startswith("label 4")


def test_the_interval_of_a_score_is_that_of_its_standard_error(content: Content) -> None:
    best = content.ranked[0]
    assert best.best is not None
    assert interval(best, "segm/AP") == pytest.approx((best.best - 1.96 * 1.5, best.best + 1.96 * 1.5))
    low, high = replace(best, best=1.0), replace(best, best=99.0)
    assert interval(low, "segm/AP") == pytest.approx((0.0, 1.0 + 1.96 * 1.5)), "a percentage"
    assert interval(high, "segm/AP") == pytest.approx((99.0 - 1.96 * 1.5, 100.0))
    assert interval(high, "segm/AP + segm/AP_all") == pytest.approx((99.0 - 1.96 * 1.5, 99.0 + 1.96 * 1.5))


def test_what_was_typed_is_told(content: Content) -> None:
    assert [command for _, command in content.commands] == [
        "raytune-m2f tune --config my.yaml --space learning_rate --study study"
    ]
    assert {"torch", "optuna", "ray"} <= set(content.versions)


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        ({"iterations": 400}, ["--iterations", "400"]),
        (
            {"trials": 2, "seconds": 5400.0, "gpu_hours": 1.5},
            ["--trials", "2", "--time", "5400s", "--gpu-hours", "1.5"],
        ),
    ],
)
def test_the_command_that_searches_on_raises_every_limit(
    tmp_path: Path, budget: dict[str, Any], options: list[str]
) -> None:
    content = read_content(made_study(tmp_path, trials=2, failed=()))
    changed = content.plan.settings.model_copy(update={"budget": Budget(**budget)})
    command = dict(replace(content, plan=replace(content.plan, settings=changed)).next_commands())
    assert command["search on, for as long again"].split()[3:] == options
    assert parse_duration("5400s") == 5400


TUNE = "raytune-m2f tune"


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["/usr/bin/raytune-m2f", "tune", "--study", "my study"], "raytune-m2f tune --study 'my study'"),
        (["/lib/raytune_m2f/__main__.py", "resume", "s"], "raytune-m2f resume s"),
        (["search.py", "--fast"], "python search.py --fast"),
        (
            ["raytune-m2f", "tune", "--optuna-storage", "mysql://me:pw@db/x"],
            f"{TUNE} --optuna-storage mysql://...@db/x",
        ),
        (["raytune-m2f", "tune", "--optuna-storage=${DB}"], f"{TUNE} '--optuna-storage=${{DB}}'"),
        ([""], "python"),
    ],
)
def test_a_command_line_can_be_typed_again(words: list[str], command: str) -> None:
    assert given_command(words) == command
