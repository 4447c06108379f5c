"""Modules of the user's are imported once, by name or by file, or the error says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from raytune_m2f.config import Config
from raytune_m2f.config.paths import import_modules
from raytune_m2f.engines.detectron2.cfg import INSTALL, load_library
from raytune_m2f.errors import ConfigError, MissingDependencyError


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_file_and_a_module_are_imported_once(tmp_path: Path) -> None:
    file = tmp_path / "imported_by_test.py"
    file.write_text("COUNT = []\nCOUNT.append(1)")
    first, json = import_modules([str(file), "json"])
    (again,) = import_modules([str(file)])
    assert first is again
    assert first.COUNT == [1]
    assert json.__name__ == "json"
    assert str(tmp_path) in sys.path  # for processes that load images


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.py", None, r"DATASETS\.IMPORT: there is no file .*missing\.py"),
        ("no_such_module", None, r"'no_such_module' cannot be imported: ModuleNotFoundError"),
        ("broken_by_test.py", "1 / 0", r"broken_by_test\.py' cannot be imported: ZeroDivisionError"),
        ("json.py", "", r"Python has another module 'json' already: rename the file"),
    ],
)
def test_what_cannot_be_imported_is_named(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=message):
        import_modules([str(tmp_path / name) if name.endswith(".py") else name])


def test_the_native_engine_refuses_imports(tmp_path: Path) -> None:
    (problem,) = Config().problems({"DATASETS.IMPORT": ["own.py"]})
    assert "only ENGINE: detectron2 has catalogs" in problem
    assert (
        str(Path.cwd() / "own.py"),
        "own",
    ) == Config().with_values({"DATASETS.IMPORT": ["own.py", "own"], "ENGINE": "detectron2"}).DATASETS.IMPORT


@pytest.mark.usefixtures("no_detectron2")
def test_without_detectron2_one_error_says_so() -> None:
    with pytest.raises(MissingDependencyError, match=r"docs/detectron2\.md"):
        load_library()
    with pytest.raises(MissingDependencyError, match=r"ENGINE: native"):
        Config.from_dict({"ENGINE": "detectron2", "MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN"}})
    with pytest.raises(MissingDependencyError, match="pip install --no-build-isolation"):
        from raytune_m2f.engines.detectron2 import add_config  # noqa: F401


def test_the_install_command_is_the_documented_one() -> None:
    documented = Path(__file__).parents[2] / "docs/detectron2.md"
    assert INSTALL in documented.read_text(encoding="utf-8")
