"""Numbers and words of a command line that no command can mean are refused before anything is read."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from raytune_m2f.cli.main import app
from raytune_m2f.cli.options import require_duration
from raytune_m2f.errors import InputError
from raytune_m2f.progress import parse_duration

STUDY = ["tune", "--config", "c.yaml", "--space", "default", "--study", "s"]
MODEL = ["--model", "m", "--output", "o"]


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """What the commands set is taken back."""
    yield
    log = logging.getLogger("raytune_m2f")
    log.handlers.clear()
    log.setLevel(logging.NOTSET)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ([*STUDY, "--trials", "9" * 400], "--trials"),
        ([*STUDY, "--iterations", "9" * 20], "--iterations"),
        ([*STUDY, "--time", "0s"], "--time"),
        ([*STUDY, "--time", "9" * 400 + "d"], "--time"),
        ([*STUDY, "--gpu-hours", "nan"], "--gpu-hours"),
        ([*STUDY, "--gpu-hours", "inf"], "--gpu-hours"),
        ([*STUDY, "--gpus-per-worker", "nan"], "--gpus-per-worker"),
        ([*STUDY, "--seed", "99999999999"], "--seed"),
        (["extend", "s", "--gpu-hours", "infinity"], "--gpu-hours"),
        (["extend", "s", "--time", "1e3s"], "--time"),
        (["predict", *MODEL, "--score-threshold", "nan", "a.png"], "--score-threshold"),
        (["train", "--config", "c.yaml", "--output", ""], "--output"),
        (["train", "--config", "c.yaml", "--output="], "--output"),
        ([*STUDY[:-1], ""], "--study"),
        ([*STUDY, "--from", ""], "--from"),
        ([*STUDY, "--metric", ""], "--metric"),
        (["export", "s", "--output", ""], "--output"),
        (["predict", "--model", "m", "--output", "", "a.png"], "--output"),
        (["demo", "--output", ""], "--output"),
        (["status", ""], "status"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "1000")
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit | None)
    if option == "--time":
        assert "duration" in result.stderr
    else:
        assert option in result.stderr


@pytest.mark.parametrize("word", ["[/red]", "[bold]x[/]", "[x]", "\udcff", "红"])
def test_a_word_of_the_users_is_no_markup_in_an_error(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "1000")
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 400)
    for words in ([*STUDY, "--sampler", word], [word], ["status", word], ["train", "--config", word, "--output", "o"]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2, result.output
        assert isinstance(result.exception, SystemExit | None)
        assert word in result.stderr or word == "\udcff"


@pytest.mark.parametrize("text", ["0s", "0h0m", "0.0d", "9" * 400 + "s", "101" + "0" * 5 + "d", "1e3s", "-5m", "5",
                                  "", " ", "1h 30m", "nan", "infs", "5M", "1.s"])  # fmt: skip
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="allowed: a duration above 0"):
        require_duration(text)
    with pytest.raises(InputError, match="allowed: a duration above 0"):
        parse_duration(text)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "45m", "2h", "1d", "1h30m", "0.5s", 7)] == [
        90, 2700, 7200, 86400, 5400, 0.5, 7,
    ]  # fmt: skip
    assert [require_duration(text) for text in ("2h", None)] == ["2h", None]
