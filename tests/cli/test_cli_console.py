"""What all commands share: any path that cannot be used is one error, names are printed as they are, durations."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from rich.table import Table

from raytune_m2f.cli import console
from raytune_m2f.cli.console import clear_errors
from raytune_m2f.cli.options import require_duration
from raytune_m2f.errors import InputError
from raytune_m2f.progress import parse_duration

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
