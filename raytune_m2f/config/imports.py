"""`DATASETS.IMPORT`: the user's own modules, which register data sets and models with detectron2.

They run because the user gives the configuration that names them. One that lies in a study or a model may be anybody's.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from raytune_m2f.errors import ConfigError

KEY = "DATASETS.IMPORT"


def refuse_untrusted(values: Mapping[Any, Any], source: str) -> None:
    """Refuse a stored configuration that would run Python files.

    Args:
        values: nested dictionaries, of any type as they come from a file.
        source: where they are from.

    Raises:
        ConfigError: naming what would run, and how it is allowed.
    """
    datasets = values.get("DATASETS")
    named = datasets.get("IMPORT") if isinstance(datasets, Mapping) else None
    if named:
        names = ", ".join(map(str, named)) if isinstance(named, list | tuple) else str(named)
        raise ConfigError(
            f"{source}: {KEY} would run Python files with your rights, and they may be anybody's: {names}. Nothing was "
            "run. Read them; if you trust them, give --trust (trust=True in Python)."
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
        raise ConfigError(f"{KEY}: there is no file {path}. Workers on other machines must see it too.")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = _import(path.stem, str(path))
    if Path(module.__file__ or "").resolve() != path.resolve():
        raise ConfigError(f"{KEY}: {path}: Python has another module {path.stem!r} already: rename the file.")
    return module


def _import(module: str, shown: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's module does
        raise ConfigError(
            f"{KEY}: {shown!r} cannot be imported: {type(error).__name__}: {error}. Allowed: a module that Python "
            "finds (PYTHONPATH) or a .py file."
        ) from error
