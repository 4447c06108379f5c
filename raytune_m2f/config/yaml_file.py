"""YAML in: safe (nothing is executed), and a key written twice is an error instead of a value lost."""

from __future__ import annotations

import difflib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.errors import InputError


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML keeps the last of two equal keys; so a second `SOLVER:` would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value!r} is given twice; join the two", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refuse_python(loader: _UniqueKeyLoader, tag: str, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(
        problem=f"!!python/{tag} would run Python, and nothing in a file is executed here; write the value itself, in "
        "a copy of the file if it is not yours",
        problem_mark=node.start_mark,
    )


_UniqueKeyLoader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse_python)


def read_yaml(path: Path, error: type[InputError]) -> dict[Any, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Raises:
        error: if the file is missing, unreadable, no YAML, or no mapping at its top.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise error(f"{path}: no such file{_similar_file(path)}") from None
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{path}: cannot be read as text: {cause}") from None
    except (yaml.YAMLError, ValueError) as cause:
        raise error(f"{path}: not valid YAML: {_one_line(cause)}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise error(f"{path}: got {type(content).__name__} at the top of the file, allowed: lines of `KEY: value`")
    return content


def parse_value(text: str) -> Any:
    """A value of the command line, read as YAML; nothing at all is the empty text.

    Raises:
        ValueError: if it is no YAML.
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader) if text.strip() else ""
    except yaml.YAMLError as cause:
        raise ValueError(_one_line(cause)) from None


def _one_line(cause: Exception) -> str:
    mark = getattr(cause, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + str(getattr(cause, "problem", None) or cause)


def _similar_file(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
