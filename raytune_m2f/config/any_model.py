"""Keys of networks that an engine brings with it: what they are and what they allow, the engine says.

Engines are above the configuration: each registers here when it is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from raytune_m2f.config.keys import closest_key

Completed = tuple[dict[str, Any], list[tuple[str, str]]]
"""Nested values of all keys, and (dotted key, problem) for each that was refused."""
Complete = Callable[[Mapping[str, Any], Iterable[str]], Completed]
"""(nested values, dotted keys that are checked elsewhere) to all keys, the engine's defaults below the values."""

_registered: dict[str, Complete] = {}


def register_keys(engine: str, complete: Complete) -> None:
    """Let the engine of this name complete and check the configurations of its own networks."""
    _registered[engine] = complete


def complete(engine: str, values: Mapping[str, Any], own: Iterable[str]) -> Completed:
    """What `engine` makes of the values.

    Raises:
        MissingDependencyError: the engine needs a library that is not installed.
        ConfigError: a module of DATASETS.IMPORT cannot be imported.
    """
    if engine not in _registered:
        importlib.import_module(f"raytune_m2f.engines.{engine}")
    return _registered[engine](values, own)


def unknown_engine_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that neither detectron2 nor a module of DATASETS.IMPORT has with a value."""
    known = list(known)
    if inside := next((one for one in known if one.startswith(f"{key}.")), None):
        return f"a section; name a key in it, such as {inside}"
    close = closest_key(key, known)
    return f"non-existent config key of detectron2{f'; did you mean {close}?' if close else ''}"
