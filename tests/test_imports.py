"""What need not wait for torch and Ray, which take ten seconds to import on a busy machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import new_study, open_record, report

import raytune_m2f as rm
from raytune_m2f.study.directory import StudyDirectory

HEAVY = ("torch", "torchvision", "ray", "scipy.stats", "pandas", "pyarrow", "pycocotools", "hotcoco")
COMMAND = f"""
import sys
from raytune_m2f.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as ended:
    print("exit", ended.code, file=sys.stderr)
print("imported", [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    study = new_study(tmp_path)
    record = open_record(study)
    record.absorb(record.ask(), report(10, 5.0))
    return study


def run(*arguments: str | Path, script: str = COMMAND) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)


def test_the_package_is_imported_in_no_time() -> None:
    """It takes with it nothing that is not Python's own."""
    ran = run(script="import sys; before = set(sys.modules); import raytune_m2f; print(*(set(sys.modules) - before))")
    foreign = {name.split(".")[0] for name in ran.stdout.split()} - set(sys.stdlib_module_names)
    assert foreign == {"raytune_m2f"}, ran.stderr


def test_every_name_is_there_and_listed() -> None:
    assert set(rm.__all__) <= set(dir(rm))
    for name in rm.__all__:
        assert getattr(rm, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = rm.Nothing  # type: ignore[attr-defined]


READ = f"""
import sys
import raytune_m2f as rm
study = rm.Study(sys.argv[1])
print(study, study.status().counts, study.trials, study.best, rm.load_config("demo").ENGINE)
print("imported", [name for name in {HEAVY!r} if name in sys.modules])
"""


def test_a_study_is_read_in_python_without_them(study: StudyDirectory) -> None:
    ran = run(study.root, script=READ)
    assert "{'unfinished': 1}" in ran.stdout, ran.stderr
    assert ran.stdout.splitlines()[-1] == "imported []"


@pytest.mark.parametrize("arguments", [["--help"], ["tune", "--help"], ["status", "--help"]])
def test_help_imports_neither_them_nor_optuna(arguments: list[str]) -> None:
    ran = run(*arguments, script=COMMAND.replace("('torch'", "('optuna', 'numpy', 'torch'"))
    assert ran.stderr.splitlines()[-1] == "imported []", ran.stderr


def test_status_imports_neither_torch_nor_ray(study: StudyDirectory) -> None:
    for options in ((), ("--json",)):
        ran = run("status", study.root, *options)
        assert ran.stderr.splitlines() == ["exit 0", "imported []"], ran.stderr
        assert "unfinished" in ran.stdout


CONFIG = "SOLVER: {MAX_ITER: 20, STEPS: []}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "nowhere"], "is no study directory"),
        (["resume", "nowhere"], "is no study directory"),
        (["extend", "nowhere", "--trials", "3"], "is no study directory"),
        (["export", "study", "--trial", "7", "--output", "m"], "trial 7 of the study"),
        (["export", "study", "--output", "m"], "no trial of the study"),
        (["export", "nowhere", "--trial", "7", "--output", "m"], "nowhere is no study, it has no trials"),
        (["evaluate", "--model", "m", "--annotations", "a", "--images", "i", "--output", "c.yaml"], "written over"),
        (["confirm", "nowhere"], "is no study directory"),
        (["train", "--config", "c.yaml", "--output", "o", "SOLVER.MAX_ITRE=3"], "SOLVER.MAX_ITRE"),
        (["train", "--config", "nosuch", "--output", "o"], "nosuch: no such file"),
        (["train", "--config", "c.yaml", "--output", "o", "fast"], "KEY=VALUE"),
        (["tune", "--config", "c.yaml", "--space", "default", "--study", "s", "SOLVER.MAX_ITRE=3"], "SOLVER.MAX_ITRE"),
        (["tune", "--config", "c.yaml", "--space", "nosuch", "--study", "s"], "no such search space"),
        (
            ["tune", "--config", "c.yaml", "--space", "default", "--study", "s", "--constraint", "low"],
            "constraint 'low'",
        ),
        (["tune", "--config", "c.yaml", "--space", "default", "--study", "study"], "is a study already"),
        (["tune", "--config", "c.yaml", "--space", "default", "--study", "s", "--grace", "50"], "--grace 50"),
        (["tune", "--config", "c.yaml", "--space", "default", "--study", "s", "--from", "nowhere"], "is no study"),
    ],
)
def test_a_wrong_word_is_refused_without_them(
    study: StudyDirectory, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(study.root.parent)
    Path("c.yaml").write_text(CONFIG)
    ran = run(*arguments)
    assert message in " ".join(ran.stderr.split())
    assert ran.stderr.splitlines()[-2:] == ["exit 2", "imported []"], ran.stderr
    assert not Path("s").exists()
    assert not Path("o").exists()
