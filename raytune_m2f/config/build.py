"""From layers of nested dictionaries to a checked section, with every problem named at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from raytune_m2f.config.fields.base import CLASHES, Problem, Section
from raytune_m2f.config.keys import allowed, is_section, known_keys, short_repr, unknown_key
from raytune_m2f.config.paths import REGISTER, resolve_paths
from raytune_m2f.config.yaml_file import flatten, merge
from raytune_m2f.errors import ConfigError, join_problems

S = TypeVar("S", bound=Section)
Location = Sequence[int | str]


@dataclass(frozen=True)
class Layer:
    """Values from one source.

    Attributes:
        origin: what a message calls the source: a file, the command line, a search space.
        values: nested dictionaries.
        folder: where relative paths start.
    """

    origin: str
    values: Mapping[Any, Any]
    folder: Path


def build(root: type[S], layers: Sequence[Layer], *, complete: bool = True) -> S:
    """The layers, the last one on top, as a checked section.

    Args:
        complete: ask others than this package, detectron2 and the user's modules, for what they know of the keys.

    Raises:
        ConfigError: with a line for every problem, each naming where the value comes from.
    """
    section, lines = check(root, layers, complete=complete)
    if section is None or lines:
        raise ConfigError(join_problems(lines))
    return section


def check(root: type[S], layers: Sequence[Layer], *, complete: bool = True) -> tuple[S | None, list[str]]:
    """The section, if every value has its type and bounds, and a line for each problem."""
    merged: dict[Any, Any] = {}
    unresolved: list[tuple[str, str, str]] = []
    for layer in layers:
        values, found = resolve_paths(layer.values, layer.folder)
        merged = merge(merged, values)
        unresolved += [(layer.origin, key, text) for key, text in found]
    lines = [f"{origin}: {key}: {text}" for origin, key, text in unresolved if not _is_of_unused_dataset(key, merged)]
    kind = root.variant(merged)
    merged, found = kind.complete(merged) if complete else (merged, [])
    lines += [f"{_origin((key,), layers)}: {key}: {text}" for key, text in found]
    clashes: list[Problem] = []
    section, problems = None, []
    try:
        section = cast("S", kind.model_validate(merged, context={CLASHES: clashes}))
    except ValidationError as error:
        problems = _problems(error, kind)
    for problem in [*problems, *clashes]:
        lines.append(f"{_origin(problem.keys, layers)}: {problem.keys[0]}: {problem.text}")
    return section, lines


def _is_of_unused_dataset(key: str, values: Mapping[Any, Any]) -> bool:
    """Whether a key is of a data set that is registered, by a `_BASE_` say, and neither trained nor tested on."""
    datasets = values.get("DATASETS")
    if not key.startswith(f"{REGISTER}.") or not isinstance(datasets, Mapping):
        return False
    name = key.split(".")[2]
    return not any(name in str(datasets.get(use, "")) for use in ("TRAIN", "TEST"))


def _origin(keys: Sequence[str], layers: Sequence[Layer]) -> str:
    """The topmost layer that gives one of the keys or something below it, else a section above it."""
    given = [(layer.origin, [f"{key}." for key in flatten(layer.values)]) for layer in layers]
    wanted = {f"{key.partition('[')[0]}." for key in keys}
    while any(wanted):
        for origin, prefixes in reversed(given):
            if any(prefix.startswith(key) for prefix in prefixes for key in wanted if key):
                return origin
        wanted = {key[: key[:-1].rfind(".") + 1] for key in wanted}
    return layers[-1].origin


def _problems(error: ValidationError, root: type[Section]) -> list[Problem]:
    """pydantic's findings, each with what was got and what is allowed."""
    return [
        Problem((_dotted(item["loc"]),), _describe(item["type"], item["input"], item["loc"], root))
        for item in error.errors(include_url=False)
    ]


def _describe(kind: str, value: Any, location: Location, root: type[Section]) -> str:
    if kind == "extra_forbidden":
        section = _field_at(root, location[:-1]).annotation
        beside = known_keys(section, f"{_dotted(location[:-1])}.".lstrip(".")) if is_section(section) else {}
        return unknown_key(_dotted(location), {**beside, **known_keys(root)})
    field = _field_at(root, location)
    got = "missing" if kind == "missing" else f"got {short_repr(value)}"
    meaning = f" ({field.description.removesuffix('.')})" if field.description else ""
    return f"{got}, allowed: {allowed(field)}{meaning}"


def _dotted(location: Location) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _field_at(root: type[Section], location: Location) -> FieldInfo:
    """The field at a location; for an item of a list the whole list."""
    field = FieldInfo(annotation=root)
    for part in location:
        if is_section(field.annotation):
            field = field.annotation.model_fields[str(part)]
        elif get_origin(field.annotation) is dict:
            field = FieldInfo(annotation=get_args(field.annotation)[1])
    return field
