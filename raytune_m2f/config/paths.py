"""What a configuration names outside of itself: files, and modules that run.

Paths: `~` and `$VARIABLE` are expanded, relative ones start at the folder of the file that states them.
Modules (`DATASETS.IMPORT`) register data sets and networks with detectron2. They run because the user gives the
configuration that names them; a configuration that lies in a study or a model may be anybody's.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from raytune_m2f.errors import ConfigError
from raytune_m2f.storage.address import holds_credentials

IMPORT = "DATASETS.IMPORT"
"""Modules, and paths of .py files."""
REGISTER = "DATASETS.REGISTER"
PATH_FIELDS = ("annotations", "images")
"""Of a data set in REGISTER."""
CREDENTIALS = (
    "got an address with credentials in it, which would be saved with the run and in every export. Download the file, "
    "and give its path; there a $VARIABLE is filled in"
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def absolute(text: str, folder: Path) -> str:
    """`text` as an absolute path.

    Raises:
        ValueError: it names an environment variable that is not set, or the home of an unknown user.
    """

    def expand(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise ValueError(
                f"got {text!r}, but the environment variable {name} is not set; "
                f"set it (export {name}=...) or write the path itself"
            )
        return os.environ[name]

    path = Path(_VARIABLE.sub(expand, text))
    try:
        path = path.expanduser() if path.parts[:1] and path.parts[0].startswith("~") else path
    except RuntimeError as problem:
        raise ValueError(str(problem)) from None
    return os.path.normpath(folder.absolute() / path)


def resolve_paths(values: Mapping[Any, Any], folder: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A copy of the nested `values` with every key as text and every path of the configuration made absolute.

    Values of a wrong type are left for the type check.

    Returns:
        The copy, and (dotted key, problem) for each path that could not be expanded.
    """
    problems: list[tuple[str, str]] = []

    def walk(node: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
        resolved: dict[str, Any] = {}
        for key, value in node.items():
            dotted = f"{prefix}{key}"
            if isinstance(value, Mapping):
                value = walk(value, f"{dotted}.")
            else:
                value, problem = _resolved(dotted, value, folder)
                problems.extend([(dotted, problem)] if problem else [])
            resolved[str(key)] = value  # YAML reads `5:` as a number and `on:` as true
        return resolved

    return walk(values, ""), problems


def _resolved(dotted: str, value: Any, folder: Path) -> tuple[Any, str]:
    """The value with its paths made absolute, and the problem with it if there is one."""
    listed = value if isinstance(value, list | tuple) else [value]
    if any("://" in one and holds_credentials(one) for one in listed if isinstance(one, str)):
        return "", CREDENTIALS
    try:
        if dotted == IMPORT and isinstance(value, list | tuple):
            return [absolute(one, folder) if isinstance(one, str) and one.endswith(".py") else one for one in value], ""
        whole = isinstance(value, str | Path) and "://" not in str(value) and is_path(dotted, str(value))
        return absolute(str(value), folder) if whole else value, ""
    except ValueError as problem:
        return value, str(problem)


def is_path(dotted: str, value: str) -> bool:
    """Whether the value of this dotted key is a path."""
    if dotted == "MODEL.WEIGHTS":
        return bool(value) and "://" not in value
    return bool(value) and dotted.startswith(f"{REGISTER}.") and dotted.rpartition(".")[2] in PATH_FIELDS


def refuse_untrusted(values: Mapping[Any, Any], source: str) -> None:
    """Refuse a stored configuration, unchecked nested dictionaries, that would run Python files.

    Raises:
        ConfigError: naming `source`, what would run, and how it is allowed.
    """
    datasets = values.get("DATASETS")
    if named := datasets.get("IMPORT") if isinstance(datasets, Mapping) else None:
        names = ", ".join(map(str, named)) if isinstance(named, list | tuple) else str(named)
        raise ConfigError(
            f"{source}: {IMPORT} would run Python files with your rights, and they may be anybody's: {names}. Nothing "
            "was run. Read them; if you trust them, give --trust (trust=True in Python)."
        )


def import_modules(names: Sequence[str]) -> list[ModuleType]:
    """Import each module, or .py file, once in this process.

    The folder of a file is put on Python's path, so that processes that load images find the module too.

    Raises:
        ConfigError: there is none, it fails, or another module has the file's name.
    """
    return [_import_file(Path(name)) if name.endswith(".py") else _import(name, name) for name in names]


def _import_file(path: Path) -> ModuleType:
    if not os.path.isfile(path):
        raise ConfigError(f"{IMPORT}: there is no file {path}. Workers on other machines must see it too.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = _import(path.stem, str(path))
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise ConfigError(f"{IMPORT}: {path}: Python has another module {path.stem!r} already: rename the file.")
    return module


def _import(module: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's module does
        raise ConfigError(
            f"{IMPORT}: {shown!r} cannot be imported: {type(error).__name__}: {error}. Allowed: a module that Python "
            "finds (PYTHONPATH) or a .py file."
        ) from error
