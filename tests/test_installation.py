"""What an installation holds: one package, which takes no name from the user. Built as pip would, without network."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

REPOSITORY = Path(__file__).resolve().parents[1]
USERS = ("model", "configs", "search_spaces")  # names that a user's own modules have
SCRIPT = """
import model, configs, search_spaces
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.model import Instances, build_model
from raytune_m2f.study.space import load_space
print(model.OWN, configs.OWN, search_spaces.OWN, Instances.__module__, len(shipped_configs()))
"""

ONLY_DATA: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # from 3.11.4 on


def built(folder: Path, source: Path = REPOSITORY) -> Path:
    (wheel,) = WheelBuilder(str(source)).build(directory=str(folder))
    return Path(wheel)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what pip would install."""
    folder = tmp_path_factory.mktemp("installed")
    with ZipFile(built(tmp_path_factory.mktemp("wheel"))) as wheel:
        wheel.extractall(folder)
    return folder


def test_one_package_is_installed(installed: Path) -> None:
    assert {path.name.split("-")[0] for path in installed.iterdir()} == {"raytune_m2f"}


@pytest.mark.parametrize("editable", [False, True])
def test_modules_of_the_user_keep_their_names(installed: Path, tmp_path: Path, editable: bool) -> None:
    for name in USERS:
        (tmp_path / f"{name}.py").write_text("OWN = 'mine'\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {"PYTHONPATH": str(REPOSITORY if editable else installed)}  # an editable installation is that path
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    shipped = len(list((REPOSITORY / "configs").rglob("*.yaml")))
    assert ran.stdout.split() == ["mine"] * 3 + ["raytune_m2f.model.structures", str(shipped)]


def test_a_wheel_made_from_the_source_archive_is_the_same(tmp_path: Path) -> None:
    (archive,) = SdistBuilder(str(REPOSITORY)).build(directory=str(tmp_path))
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, **ONLY_DATA)
    source = next(path for path in tmp_path.iterdir() if path.is_dir())
    with ZipFile(built(tmp_path / "a")) as one, ZipFile(built(tmp_path / "b", source)) as other:
        assert {*one.namelist()} == {*other.namelist()}
        assert len([name for name in one.namelist() if name.startswith("raytune_m2f/model/")]) > 15
