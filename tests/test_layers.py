"""The layers of the package: imports go downwards only, and detectron2 stays behind one module.

The modules are read, not imported: an import inside a function or behind `TYPE_CHECKING` counts as well.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LAYERS: tuple[tuple[str, ...], ...] = (
    ("model",),
    ("errors", "notes"),
    ("storage", "progress"),
    ("loggers",),
    ("config", "configs", "search_spaces"),
    ("data",),
    ("evaluation", "visualize"),
    ("learner",),
    ("engines",),
    ("training",),
    ("study",),
    ("launch",),
    ("doctor",),
    ("drive",),
    ("export_files", "export_card", "export", "export_check", "formats", "predict", "rankings", "scores", "project"),
    ("report",),
    ("api", "cluster"),
    ("cli", "__main__"),
    ("testing",),  # tests the layers below it, and none of them needs it
)
"""What is in raytune_m2f, from the lowest to the highest. A package stands for all that is in it."""

MODEL_MAY_IMPORT = {"torch", "torchvision", "numpy", "scipy"}
DETECTRON2_ENGINE = "raytune_m2f.engines.detectron2.library"
PACKAGE = "raytune_m2f"
"""Its `__init__` names what lies above it, and imports that when it is first used; see test_imports.py."""
MOST_FILES = 15
"""Side by side in a folder."""


def modules() -> dict[str, Path]:
    """Every module of the package, by its dotted name; a link stands for the folder that it names."""
    found = {}
    for folder, names, files in os.walk(REPOSITORY / "raytune_m2f", followlinks=True):
        names[:] = [name for name in names if name != "__pycache__"]
        for path in (Path(folder) / file for file in sorted(files) if file.endswith(".py")):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(name: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything that module `name` imports; submodules are named in full."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(name, node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield node.lineno, submodule if submodule in MODULES else base


def absolute(name: str, node: ast.ImportFrom) -> str:
    """The module that `from … import` names, with the dots of a relative import resolved."""
    if not node.level:
        return node.module or ""
    package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
    return ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])


def layer(name: str) -> int | None:
    """The layer of a module; None without one. The package's own `__init__` is below all."""
    top = name.split(".")[1:2]
    return next((height for height, names in enumerate(LAYERS) if set(top) & set(names)), None) if top else -1


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in MODULES if layer(name) is None]
    assert not homeless, f"give these a place in LAYERS: {homeless}"


def test_imports_go_downwards() -> None:
    wrong = []
    for name in MODULES:
        for line, target in imports(name) if name != PACKAGE else ():
            if target.split(".")[0] == "raytune_m2f" and (layer(target) or 0) > (layer(name) or 0):
                wrong.append(f"{MODULES[name].relative_to(REPOSITORY)}:{line} imports {target}, which is above it")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_by_way_of_others() -> None:
    below = {name: {target for _, target in imports(name) if target in MODULES} for name in MODULES}
    done: set[str] = set()
    while ready := {name for name in below if name not in done and below[name] <= done}:
        done |= ready
    assert not set(below) - done, f"in circles, or above one: {sorted(set(below) - done)}"


def test_model_needs_torch_alone() -> None:
    allowed = MODEL_MAY_IMPORT | set(sys.stdlib_module_names)
    wrong = [
        f"{name}:{line} imports {target}"
        for name in MODULES
        if name.startswith("raytune_m2f.model")
        for line, target in imports(name)
        if target.split(".")[0] not in allowed and not target.startswith("raytune_m2f.model")
    ]
    assert not wrong, "\n".join(wrong)


def folders() -> dict[str, list[str]]:
    """The files of each package, by the package's name, without its `__init__`."""
    found: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found.setdefault(package, []).extend([path.name] if path.name != "__init__.py" else [])
    return found


@pytest.mark.parametrize("package", sorted(folders()))
def test_a_package_says_what_is_in_which_file(package: str) -> None:
    files, index = folders()[package], ast.get_docstring(ast.parse(MODULES[package].read_text(encoding="utf-8"))) or ""
    assert len(files) < MOST_FILES
    named = re.findall(r"^(\w+\.py)  ?", index, flags=re.MULTILINE)
    assert not (missing := sorted(set(files) - {"__main__.py"} - set(named))), f"{package}: not in its index: {missing}"
    assert not (gone := sorted(set(named) - set(files))), f"{package}: in its index, and gone: {gone}"


def test_one_module_imports_detectron2() -> None:
    users = {name for name in MODULES for _, target in imports(name) if target.split(".")[0] == "detectron2"}
    assert users <= {DETECTRON2_ENGINE}


def test_everything_else_imports_without_detectron2() -> None:
    names = [name for name in MODULES if name != DETECTRON2_ENGINE and not name.endswith("__main__")]
    script = f"""
import importlib, sys
sys.modules["detectron2"] = None  # importing it now raises ImportError
for name in {names!r}:
    importlib.import_module(name)
"""
    ran = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_resolver_sees_what_it_must() -> None:
    """Guards the tests above against passing because nothing was found."""
    assert "raytune_m2f.errors" in MODULES
    assert layer("raytune_m2f.data.records") == layer("raytune_m2f.data")
    assert layer("raytune_m2f.nowhere") is None
    assert any(target.startswith("raytune_m2f.model") for _, target in imports("raytune_m2f.data.records"))
    relative = ast.parse("from ..errors import InputError").body[0]
    assert isinstance(relative, ast.ImportFrom)
    assert absolute("raytune_m2f.data.records", relative) == "raytune_m2f.errors"
