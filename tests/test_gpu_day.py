"""The script for the day on a GPU: it says what is wrong with its options, and its note is written whatever fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from benchmarks.gpu_day import SIZES, resume_words, tune_words
from raytune_m2f.cli.main import app

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "gpu_day.sh"
SHELLCHECK = Path(sys.executable).parent / "shellcheck"
LAID_OUT = {"install.log", "tests.log", "losses.log", "steps.log", "study.log", "note.md"}


def gpu_day(folder: Path, *words: str, script: Path = SCRIPT, **environ: str) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name != "OUT"}
    return subprocess.run(
        ["bash", str(script), *words], cwd=folder, env={**outside, **environ}, capture_output=True, text=True
    )


def stub(folder: Path, answers: str) -> str:
    """A Python that answers `-c` and `-m` by this piece of shell."""
    program = folder / "python_stub"
    program.write_text(f"#!/bin/sh\n{answers}\n")
    program.chmod(0o755)
    return str(program)


def test_shellcheck_has_nothing_to_say() -> None:
    checked = subprocess.run([str(SHELLCHECK), str(SCRIPT)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_help_names_every_option_and_starts_nothing(tmp_path: Path) -> None:
    shown = gpu_day(tmp_path, "--help")
    assert shown.returncode == 0
    for option in ("--device", "--output", "--python", "--wheels"):
        assert option in shown.stdout
    assert "shellcheck" not in shown.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--device", "tpu"], "--device tpu is neither cuda nor cpu"),
        (["--device"], "--device needs a value"),
        (["--output", ""], "--output needs a value"),
        (["--quick"], "--quick is no option"),
        (["--python", "no-such-python"], "--python no-such-python is no program"),
        (["--wheels", "."], "--wheels . has no *.whl"),
        (["--output", "/proc/nowhere/gpu_day"], "--output /proc/nowhere/gpu_day cannot be written"),
    ],
)
def test_a_wrong_option_is_one_error(words: list[str], complaint: str, tmp_path: Path) -> None:
    refused = gpu_day(tmp_path, *words)
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith(f"error: {complaint}")
    assert refused.stdout == ""


def test_a_part_that_fails_costs_no_other_and_stands_in_the_note(tmp_path: Path) -> None:
    """With a Python that has all that is needed, where `losses` fails and the rest does what it should."""
    python = stub(tmp_path, 'case "$*" in *losses*) echo "a mistake"; exit 3 ;; *) echo "ran $1 $2" ;; esac')
    out = tmp_path / "out"
    done = gpu_day(tmp_path, "--device", "cpu", "--python", python, OUT=str(out))
    assert done.returncode == 1, done.stderr
    assert {path.name for path in out.iterdir()} == LAID_OUT
    note = (out / "note.md").read_text()
    assert "| losses | **failed** (exit code 3) |" in note
    for part in ("install", "tests", "steps", "study"):
        assert f"| {part} | passed |" in note
    assert "a mistake" in note
    assert "ran -m benchmarks.gpu_day" in (out / "study.log").read_text()


def test_where_nothing_can_be_installed_there_is_a_note_as_well(tmp_path: Path) -> None:
    """Bare, as `--wheels` sees it: the wheels cannot be laid out, and no part has what it needs."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "broken-1.0-py3-none-any.whl").touch()
    python = stub(tmp_path, "echo nothing here >&2; exit 1")
    done = gpu_day(tmp_path, "--device", "cpu", "--python", python, "--wheels", str(wheels), "--output", "out")
    assert done.returncode == 1
    note = (tmp_path / "out" / "note.md").read_text()
    assert note.count("**failed** (exit code 1)") == 5
    assert "no versions: see install.log" in note


BARE = """
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && touch "$3/made" ;;
"-m pip install"*) echo "installs: $*" ;;
-c*) case "$PYTHONPATH" in */site*) exit 0 ;; esac; [ -e "$(dirname "$0")/../made" ] ;;
*) echo "ran by $0 with $PYTHONPATH" ;;
esac
"""


@pytest.mark.parametrize("wheels", [False, True])
def test_a_bare_machine_gets_an_environment(wheels: bool, tmp_path: Path) -> None:
    """Its own, or wheels beside what Python has: in a checkout without a .venv."""
    script = tmp_path / "checkout" / "benchmarks" / SCRIPT.name
    script.parent.mkdir(parents=True)
    script.write_bytes(SCRIPT.read_bytes())
    (tmp_path / "any-1.0-py3-none-any.whl").touch()
    words = ["--python", stub(tmp_path, BARE), "--output", "out", "--device", "cpu"]
    done = gpu_day(tmp_path, *words, *(["--wheels", str(tmp_path)] if wheels else []), script=script)
    assert done.returncode == 0, (tmp_path / "out" / "note.md").read_text()
    asked = (tmp_path / "out" / "install.log").read_text()
    assert ("--no-index" in asked) == wheels
    assert ("--constraint constraints.txt --editable .[dev]" in asked) != wheels
    ran = (tmp_path / "out" / "study.log").read_text()
    assert ("/venv/bin/python" in ran) != wheels
    assert ("/site" in ran) == wheels
    assert "no git checkout" in (tmp_path / "out" / "note.md").read_text()


@pytest.mark.parametrize("device", SIZES)
def test_the_words_of_the_study_are_options_of_the_command_line(device: str, tmp_path: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, *words in (tune_words(device, tmp_path), resume_words(tmp_path)):
        parsed = commands[name].make_context(name, words).params
        assert parsed["study"] == str(tmp_path / "study")


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu_passes_in_every_part(tmp_path: Path) -> None:
    done = gpu_day(tmp_path, "--device", "cpu", "--python", sys.executable, "--output", "out")
    assert done.returncode == 0, (tmp_path / "out" / "note.md").read_text()
    assert {path.name for path in (tmp_path / "out").iterdir()} == LAID_OUT
    assert "no CUDA device" in (tmp_path / "out" / "tests.log").read_text()
    assert "left out: " in (tmp_path / "out" / "steps.log").read_text()
