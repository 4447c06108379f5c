"""The layers of the package: imports go downwards only, and detectron2 stays behind one module.

The modules are read, not imported: an import inside a function or behind `TYPE_CHECKING` counts as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = ("model", "raytune_m2f", "search_spaces", "configs")

LAYERS: tuple[tuple[str, ...], ...] = (
    ("model",),
    (
        "raytune_m2f",
        "raytune_m2f.errors",
        "raytune_m2f.stored",
        "raytune_m2f.sockets",
        "raytune_m2f.credentials",
        "raytune_m2f.config",
        "search_spaces",
        "configs",
    ),
    ("raytune_m2f.files", "raytune_m2f.store", "raytune_m2f.mirror", "raytune_m2f.progress_line"),
    ("raytune_m2f.data",),
    ("raytune_m2f.evaluation", "raytune_m2f.visualize"),
    ("raytune_m2f.learner",),
    ("raytune_m2f.engines",),
    ("raytune_m2f.training",),
    (
        "raytune_m2f.detectron2_compat",
        "raytune_m2f.image_files",
        "raytune_m2f.export",
        "raytune_m2f.export_files",
        "raytune_m2f.predict",
        "raytune_m2f.train",
        "raytune_m2f.console",
        "raytune_m2f.screen",
    ),
    ("raytune_m2f.tuning",),
    ("raytune_m2f.cluster",),
    (
        "raytune_m2f.introduce",
        "raytune_m2f.options",
        "raytune_m2f.demo",
        "raytune_m2f.cli_cluster",
        "raytune_m2f.cli_study",
        "raytune_m2f.cli",
        "raytune_m2f.__main__",
    ),
    ("raytune_m2f.testing",),  # tests the layers below it, and none of them needs it
)
"""From the lowest to the highest. A name stands for the module or the package with all that is in it."""

MODEL_MAY_IMPORT = {"model", "torch", "torchvision", "numpy", "scipy"}
DETECTRON2_ENGINE = "raytune_m2f.engines.detectron2"
NEEDS_DETECTRON2 = {
    DETECTRON2_ENGINE,
    "raytune_m2f.detectron2_compat",
}  # the second is for scripts of detectron2's users


def modules() -> dict[str, Path]:
    """Every module of the repository's packages, by its dotted name."""
    found = {}
    for path in (path for root in ROOTS for path in sorted((REPOSITORY / root).rglob("*.py"))):
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
    """The layer of a module: that of the longest name in `LAYERS` that covers it; None without one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix == "raytune_m2f" and end < len(parts):
            return None  # the package's own layer holds for its __init__ alone
        for height, names in enumerate(LAYERS):
            if prefix in names:
                return height
    return None


def test_every_module_has_a_layer() -> None:
    homeless = [name for name in MODULES if layer(name) is None]
    assert not homeless, f"give these a place in LAYERS: {homeless}"


def test_imports_go_downwards() -> None:
    wrong = []
    for name in MODULES:
        for line, target in imports(name):
            if target.split(".")[0] in ROOTS and (layer(target) or 0) > (layer(name) or 0):
                wrong.append(f"{MODULES[name].relative_to(REPOSITORY)}:{line} imports {target}, which is above it")
    assert not wrong, "\n".join(wrong)


def test_model_needs_torch_alone() -> None:
    allowed = MODEL_MAY_IMPORT | set(sys.stdlib_module_names)
    wrong = [
        f"{name}:{line} imports {target}"
        for name in MODULES
        if name.split(".")[0] == "model"
        for line, target in imports(name)
        if target.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_one_module_imports_detectron2() -> None:
    users = {name for name in MODULES for _, target in imports(name) if target.split(".")[0] == "detectron2"}
    assert users <= {DETECTRON2_ENGINE}


def test_everything_else_imports_without_detectron2() -> None:
    names = [name for name in MODULES if name not in NEEDS_DETECTRON2 and not name.endswith("__main__")]
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
    assert layer("raytune_m2f.data.samples") == layer("raytune_m2f.data")
    assert layer("raytune_m2f.nowhere") is None
    assert any(target.startswith("model") for _, target in imports("raytune_m2f.data.samples"))
    relative = ast.parse("from ..errors import InputError").body[0]
    assert isinstance(relative, ast.ImportFrom)
    assert absolute("raytune_m2f.data.samples", relative) == "raytune_m2f.errors"
