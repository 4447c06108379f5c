"""What a command shows: one error, names as they are, plain lines where there is no terminal."""

from __future__ import annotations

import ast
import errno
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raytune_m2f.cli import console
from raytune_m2f.cli.console import (
    clear_errors,
    is_quiet,
    log_to_stderr,
    print_table,
    set_verbosity,
    show_progress,
)
from raytune_m2f.progress import logged, nobody

LONG = "x" * 200
REPOSITORY = Path(__file__).resolve().parents[2]
PRINTS_MUCH = """
from raytune_m2f.cli.console import clear_errors, out
with clear_errors():
    for number in range(20_000):
        {line}
"""


def failed(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the message."""
    with pytest.raises(SystemExit) as found, clear_errors():
        raise error
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return int(str(found.value.code)), text


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """The package's log is as it was before."""
    log = logging.getLogger("raytune_m2f")
    handlers, level = log.handlers, log.level
    yield
    log.handlers = handlers
    log.setLevel(level)


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 400)


INPUT = ("ENOENT", "EEXIST", "EACCES", "EPERM", "EROFS", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "ELOOP", "EINVAL",
         "ENOTEMPTY", "ENXIO", "ENODEV", "EBUSY", "EXDEV")  # fmt: skip


@pytest.mark.parametrize("name", INPUT)
def test_a_path_that_cannot_be_used_is_wrong_input(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(errno, name)
    code, text = failed(OSError(number, os.strerror(number), "/given/[path]"), capsys)
    assert (code, text) == (2, f"error: /given/[path]: {os.strerror(number)}. Give a path that can be used.\n")


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EIO", "EMFILE"])
def test_what_the_machine_could_not_do_is_a_failure(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(errno, name)
    code, text = failed(OSError(number, os.strerror(number), "/given/path"), capsys)
    assert code == 1
    assert f"/given/path: {os.strerror(number)}." in text
    assert "what was finished is kept" in text


def test_an_error_without_a_path_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert failed(OSError("the library says no"), capsys)[0] == 1
    assert failed(ConnectionResetError(errno.ECONNRESET, "reset"), capsys) == (
        1, "error: reset. Mend that; what was finished is kept.\n",
    )  # fmt: skip


def test_real_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, code in ((tmp_path / ("n" * 300), 2), (tmp_path / "a\0b", 2), (tmp_path, 2), (tmp_path / "no" / "x", 2)):
        with pytest.raises(SystemExit) as found, clear_errors():
            path.write_text("x")
        assert found.value.code == code
    assert "n" * 120 + "..." not in capsys.readouterr().err.replace("/", "")[:100]


def test_a_path_too_long_for_a_line_is_shortened(capsys: pytest.CaptureFixture[str]) -> None:
    _, text = failed(OSError(errno.ENAMETOOLONG, "File name too long", "/" + "n" * 5000), capsys)
    assert "(5001 characters): File name too long" in text
    assert len(text) < 350


def test_another_value_error_is_none_of_ours() -> None:
    with pytest.raises(ValueError, match="a bug"), clear_errors():
        raise ValueError("a bug")


@pytest.mark.parametrize("line", ["out.print('a line of some length')", "print('a line of some length')"])
def test_a_reader_that_has_read_enough_is_no_error(line: str) -> None:
    script = subprocess.Popen(
        [sys.executable, "-c", PRINTS_MUCH.format(line=line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert script.stdout is not None
    assert script.stderr is not None
    script.stdout.readline()
    script.stdout.close()
    said = script.stderr.read()
    script.stderr.close()
    assert script.wait() == 1
    assert said == b""


def test_names_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["light [r/g]", "[/red]", "[bold]x", ":cat:", "[link=x]y"]
    for name in names:
        table = Table(name, title=name, caption=name, show_header=True)
        table.add_row(name)
        console.out.print(table)
        console.out.print(name)
        console.err.print(name)
    shown = capsys.readouterr()
    for name in names:
        assert shown.out.count(name) == 5
        assert shown.err.count(name) == 1


def test_what_a_terminal_has_no_letters_for_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", narrow)
    with clear_errors():
        Console(file=narrow, markup=False).print("红绿灯 \udcff")
    narrow.flush()
    assert narrow.buffer.getvalue().startswith(b"\\u7ea2")


# More or less of it


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
