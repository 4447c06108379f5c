"""What is shown beside errors: plain where there is no terminal."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from raytune_m2f.cli.console import is_quiet, log_to_stderr, print_table, set_verbosity, show_progress
from raytune_m2f.progress import logged, nobody

LONG = "x" * 200
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    log = logging.getLogger("raytune_m2f")
    handlers, level = log.handlers, log.level
    yield
    log.handlers = handlers
    log.setLevel(level)


def test_a_log_is_neither_wrapped_nor_padded_nor_read_as_markup(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr()
    log = logging.getLogger("raytune_m2f.some_module")
    log.info("[red]%s", LONG)
    log.debug("unseen")
    logged("iteration", log)(3, 3)  # for log files: `show_progress` shows it here
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f" [red]{LONG}")
    assert len(line.split()[0]) == len("12:00:00")


def test_quiet_and_verbose(capsys: pytest.CaptureFixture[str]) -> None:
    set_verbosity(logging.ERROR)
    log_to_stderr()
    log = logging.getLogger("raytune_m2f.some_module")
    log.warning("unseen")
    assert is_quiet()
    with show_progress("training") as progress:
        assert progress is nobody
    set_verbosity(logging.DEBUG)
    log.debug("seen")
    assert not is_quiet()
    assert capsys.readouterr().err.split()[1:] == ["seen"]


def test_a_table_in_a_log_is_as_wide_as_it_needs_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title=Text("study [x]"), caption=Text(f"best: {LONG}\nnobody runs it"))
    table.add_column("trial", justify="right")
    table.add_column(LONG, min_width=5)
    table.add_row("0", Text("[y]"))
    print_table(table)
    assert capsys.readouterr().out.splitlines() == [
        "study [x]",
        f"trial  {LONG}",
        "    0  [y]",
        f"best: {LONG}",
        "nobody runs it",
    ]


def test_no_line_of_a_command_is_folded() -> None:
    """What is printed goes to logs and pipes as well, where a path that is folded cannot be copied."""
    calls = {
        f"{path.name}:{call.lineno}"
        for path in sorted((REPOSITORY / "raytune_m2f").rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("out.print", "err.print")
        and "soft_wrap" not in {keyword.arg for keyword in call.keywords}
        and not any(isinstance(argument, ast.Name) and argument.id == "table" for argument in call.args)
    }
    assert not calls, f"say soft_wrap=True in {sorted(calls)}"
