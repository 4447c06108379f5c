"""YAML in, as nested dictionaries: {"SOLVER": {"BASE_LR": 1}}; or flat, with dotted keys: {"SOLVER.BASE_LR": 1}.

Reading is safe (nothing is executed, nothing hangs), and a key written twice is an error, not a value lost.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.errors import InputError, closest
from raytune_m2f.storage.text import read_text, text_problem

MOST_BYTES = 2**20
"""Of a configuration or a search space; they have some thousand."""
DEEPEST = 64
"""Levels of a file; a configuration has 6."""
MOST_REPEATED = 10_000
"""Values that aliases may repeat; a few lines of them can stand for more than any memory holds."""
MOST_BITS = 64
"""Of a whole number."""


def flatten(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys to leaves; an empty dictionary is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{dotted}."))
        else:
            flat[dotted] = value
    return flat


def nest(dotted: str, value: Any) -> dict[str, Any]:
    """One dotted key as nested dictionaries."""
    head, separator, rest = dotted.partition(".")
    return {head: nest(rest, value) if separator else value}


def merge(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Both, where `above` wins key by key; lists are replaced, not joined."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but for what it takes in silence or for ever.

    It keeps the last of two equal keys, so that a second `SOLVER:` would silently drop the first.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0
        self._repeated = 0
        self._sizes: dict[str, int] = {}  # of anchors whose node is complete
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the parent's, with a bound on levels and on what aliases repeat."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._count_repeated(event)
            return super().compose_node(parent, index)
        if self._depth == DEEPEST:
            raise _problem(f"nested deeper than {DEEPEST} levels", event.start_mark)
        self._depth += 1
        before = self._nodes + self._repeated
        node = super().compose_node(parent, index)
        self._nodes += 1
        self._depth -= 1
        if (anchor := getattr(event, "anchor", None)) is not None:
            self._sizes[anchor] = self._nodes + self._repeated - before
        return node

    def _count_repeated(self, event: Any) -> None:
        if event.anchor in self.anchors and event.anchor not in self._sizes:
            raise _problem(f"*{event.anchor} stands within &{event.anchor} itself, without end", event.start_mark)
        self._repeated += self._sizes.get(event.anchor, 0)
        if self._repeated > MOST_REPEATED:
            raise _problem(f"aliases such as *{event.anchor} repeat more than {MOST_REPEATED} values", event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _problem(f"{key.value!r} is given twice; join the two", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the parent's; what a tag makes of a value that does not fit it is an error of many kinds there."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError):
            shown = f" {str(node.value)[:40]!r}" if isinstance(node, yaml.ScalarNode) else ""
            raise _problem(f"the value{shown} is no {node.tag.rpartition(':')[2]}", node.start_mark) from None
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise _problem(f"a number of more than {MOST_BITS} bits", node.start_mark)
        if isinstance(value, str) and (problem := text_problem(value)):
            raise _problem(problem, node.start_mark)
        return value


def _problem(text: str, mark: Any) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(problem=text, problem_mark=mark)


def _refuse_python(loader: _Loader, tag: str, node: yaml.Node) -> None:
    text = (
        f"!!python/{tag} would run Python, and nothing in a file is executed here; write the value itself, in a copy "
    )
    raise _problem(f"{text}of the file if it is not yours", node.start_mark)


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", _refuse_python)


def read_yaml(path: Path, error: type[InputError], *, most: int = MOST_BYTES) -> dict[Any, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Args:
        most: size of the file at most [bytes].

    Raises:
        error: if the file is missing, unreadable, no YAML, or no mapping at its top.
    """
    if not os.path.lexists(path):
        raise error(f"{path}: no such file{similar_file(path)}")
    try:
        content = yaml.load(read_text(path, error, most=most), Loader=_Loader)
    except yaml.YAMLError as cause:
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
        return yaml.load(text, Loader=_Loader) if text.strip() else ""
    except yaml.YAMLError as cause:
        raise ValueError(_one_line(cause)) from None


def _one_line(cause: Exception) -> str:
    mark = getattr(cause, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(str(getattr(cause, "problem", None) or cause).split())


def similar_file(path: Path) -> str:
    """`; did you mean ...?` with the YAML file beside a missing one that is named most like it; empty if none is."""
    close = closest(path.name, [file.name for file in path.parent.glob("*.y*ml")]) if path.parent.is_dir() else None
    return f"; did you mean {path.parent / close}?" if close else ""
