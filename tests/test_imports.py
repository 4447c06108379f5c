"""What need not wait for torch and Ray, which take ten seconds to import on a busy machine."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import new_study, open_record, report

from raytune_m2f import api as tuning
from raytune_m2f.study.directory import StudyDirectory

HEAVY = ("torch", "torchvision", "ray", "scipy.stats", "pandas", "pyarrow", "pycocotools")
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


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    return subprocess.run(script, capture_output=True, text=True)


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
        (["train", "--config", "c.yaml", "--output", "o", "SOLVER.MAX_ITRE=3"], "SOLVER.MAX_ITRE"),
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


def test_every_name_of_the_package_is_where_it_is_said_to_be() -> None:
    homes = {name: home for home, names in tuning._HOMES.items() for name in names}
    assert sorted(homes) == sorted(tuning.__all__)
    for name, home in homes.items():
        assert getattr(tuning, name) is getattr(importlib.import_module(f"raytune_m2f.tuning.{home}"), name)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = tuning.Nothing  # type: ignore[attr-defined]
