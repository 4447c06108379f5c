"""Paths in a configuration: `~` and `$VARIABLE` expanded, relative ones taken from their file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raytune_m2f.credentials import holds_credentials

PATH_FIELDS = ("annotations", "images")
REGISTER = "DATASETS.REGISTER"
IMPORT = "DATASETS.IMPORT"
"""Modules, and paths of .py files."""
CREDENTIALS = (
    "got an address with credentials in it, which would be saved with the run and in every export. Download the file, "
    "and give its path; there a $VARIABLE is filled in"
)
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def absolute(text: str, folder: Path) -> str:
    """`text` as an absolute path.

    Raises:
        ValueError: if it names an environment variable that is not set.
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
    path = path.expanduser() if path.parts[:1] and path.parts[0].startswith("~") else path
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
            elif isinstance(value, str | Path) and "://" not in str(value) and is_path(dotted, str(value)):
                try:
                    value = absolute(str(value), folder)
                except (ValueError, RuntimeError) as problem:  # RuntimeError: the home of an unknown ~user
                    problems.append((dotted, str(problem)))
            elif any(map(holds_credentials, _texts(value))):
                problems.append((dotted, CREDENTIALS))
                value = ""
            elif dotted == IMPORT and isinstance(value, list | tuple):
                value = [absolute(one, folder) if str(one).endswith(".py") else one for one in value]
            resolved[str(key)] = value  # YAML reads `5:` as a number and `on:` as true
        return resolved

    return walk(values, ""), problems


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list | tuple) else [value]
    return [item for item in items if isinstance(item, str) and "://" in item]


def is_path(dotted: str, value: str) -> bool:
    if dotted == "MODEL.WEIGHTS":
        return bool(value) and "://" not in value
    return bool(value) and dotted.startswith(f"{REGISTER}.") and dotted.rpartition(".")[2] in PATH_FIELDS
