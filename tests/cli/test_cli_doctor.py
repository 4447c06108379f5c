"""`raytune-m2f doctor`: the list as people and machines read it, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raytune_m2f.cli.main import app
from raytune_m2f.doctor import examine as module
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import DatasetError

run = CliRunner()


def looks(check: Check, *findings: Finding) -> Check:
    """The check, which finds these."""
    return Check(check.name, check.asks, lambda subject: iter(findings), needs="config", quick=check.quick)


QUICK = Check("data/labels", "are labels in range?", lambda subject: (), quick=True)
SLOW = Check("model/images", "do outputs depend on the image?", lambda subject: ())
SOUND = looks(QUICK, QUICK.ok("12 labels in range", labels=12))
WORTH_A_LOOK = looks(QUICK, QUICK.warning("1 label of 12 is rare", "It is hardly learned.", "Label more.", rare=1))
WRONG = looks(SLOW, SLOW.problem("all images have the same logits", "Nothing is learned.", "Mend model/."))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What the command runs instead of all checks."""
    chosen: list[Check] = []
    whole = module.examine

    def examine(subject: Subject, **options: Any) -> Iterator[Finding]:
        return whole(subject, tuple(chosen), **options)

    monkeypatch.setattr(module, "examine", examine)
    return chosen


def doctor(*words: str) -> tuple[int, str]:
    result = run.invoke(app, ["doctor", "--config", "small_data", *words], catch_exceptions=False)
    return result.exit_code, result.stdout


def test_a_sound_set_is_exit_code_0(checks: list[Check]) -> None:
    checks += [SOUND]
    code, text = doctor()
    assert code == 0
    assert text.splitlines() == [
        "data",
        "  ok       labels: 12 labels in range",
        text.splitlines()[-1],
    ]
    assert text.splitlines()[-1].startswith("no problems, no warnings; 1 check in 0:0")


def test_a_warning_is_exit_code_0_and_says_what_to_do(checks: list[Check]) -> None:
    checks += [WORTH_A_LOOK]
    code, text = doctor()
    assert code == 0
    assert text.splitlines()[1:4] == [
        "  warning  labels: 1 label of 12 is rare",
        "           It is hardly learned.",
        "           -> Label more.",
    ]
    assert "no problems, 1 warning;" in text


def test_a_problem_is_exit_code_1_and_the_rest_is_looked_at(checks: list[Check]) -> None:
    checks += [WRONG, SOUND]
    code, text = doctor()
    assert code == 1
    assert "  problem  images: all images have the same logits" in text
    assert "labels: 12 labels" in text
    assert "1 problem, no warnings; 2 checks" in text


def test_quick_leaves_out_what_takes_longer(checks: list[Check]) -> None:
    checks += [SOUND, WRONG]
    code, text = doctor("--quick")
    assert code == 0
    assert "images" not in text


def test_json_is_all_that_is_printed(checks: list[Check]) -> None:
    checks += [WORTH_A_LOOK, WRONG]
    code, text = doctor("--json")
    content = json.loads(text)
    assert code == 1
    assert (content["problems"], content["warnings"]) == (1, 1)
    assert content["findings"][0] == {
        "check": "data/labels",
        "level": "warning",
        "figure": "1 label of 12 is rare",
        "meaning": "It is hardly learned.",
        "remedy": "Label more.",
        "values": {"rare": 1},
    }


def test_json_has_no_nan(checks: list[Check]) -> None:
    checks += [looks(QUICK, QUICK.ok("odd", factors=[float("nan"), 1.0], lr=float("inf")))]
    _, text = doctor("--json")
    content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert content["findings"][0]["values"] == {"factors": [None, 1.0], "lr": None}


def test_data_that_cannot_be_read_are_one_problem(checks: list[Check]) -> None:
    """small_data names no data set: what needs the data is skipped, the configuration is looked at."""
    checks += [Check("data/masks", "?", lambda subject: [], quick=True), SOUND]
    code, text = doctor()
    assert code == 1
    assert "problem  read: DATASETS.TRAIN is empty" in text
    assert "skipped  masks: not looked at: see data/read" in text
    assert "ok       labels" in text


def test_an_input_error_of_a_check_is_a_problem(checks: list[Check]) -> None:
    def look(subject: Subject) -> Iterator[Finding]:
        yield QUICK.ok("so far")
        raise DatasetError("train.json has gone")

    checks += [Check("data/ids", "?", look, needs="config"), SOUND]
    code, text = doctor()
    assert code == 1
    assert "problem  ids: train.json has gone" in text
    assert "ok       labels" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["SOLVER.BASE_LRR=1"], "BASE_LR"),
        (["--device", "tpu"], "allowed on this machine: cpu"),
        (["--space", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_wrong_words_are_exit_code_2(words: list[str], message: str, tmp_path: Path) -> None:
    result = run.invoke(app, ["doctor", "--config", "small_data", *words], catch_exceptions=False)
    assert result.exit_code == 2
    assert message in result.stderr
