"""Nested dictionaries and dotted keys: {"SOLVER": {"BASE_LR": 1}} and {"SOLVER.BASE_LR": 1}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


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
