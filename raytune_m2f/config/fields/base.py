"""What every section of the configuration has in common: strict types, lenient spelling, no unknown key.

Source of the leniency: detectron2 decodes values written as text, so `1e-4` (text to PyYAML) is a number and
`("coco_train",)` (text to YAML) is a list.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from typing_extensions import Self

CLASHES = "clashes"
"""Validation context: a list that collects the clashes of all sections; raising would show the first only."""


def fixed(value: Any, description: str) -> Any:
    """A key that detectron2 or Mask2Former has and that is accepted at one value only."""
    return Field(default=value, description=description, json_schema_extra={"fixed": True})


def is_fixed(field: FieldInfo) -> bool:
    """Whether the field was made by `fixed`."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("fixed"))


class Problem(NamedTuple):
    """What is wrong with a value: its dotted key, those that it clashes with, and the message."""

    keys: tuple[str, ...]
    text: str


class Section(BaseModel, frozen=True, extra="forbid", strict=True, allow_inf_nan=False):
    """A group of keys: frozen, with unknown keys refused and types taken seriously (true is no number)."""

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[Section]:
        """The class that these values are for, before anything is checked."""
        return cls

    @classmethod
    def complete(cls, values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        """The values with what is known of keys that are no fields here, and (dotted key, problem) of each."""
        return values, []

    def clashes(self) -> Iterator[Problem]:
        """The pairs of values that do not go together; called once each value is valid by itself."""
        yield from ()

    @field_validator("*", mode="before")
    @classmethod
    def _decode(cls, value: Any, info: ValidationInfo) -> Any:
        return decode(value, cls.model_fields[str(info.field_name)].annotation)

    @field_validator("*", mode="after")
    @classmethod
    def _keep_fixed(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if is_fixed(field) and value != field.default:
            raise PydanticCustomError("fixed", "accepted at one value only")
        return value

    @model_validator(mode="after")
    def _no_clash(self, info: ValidationInfo) -> Self:
        found = list(self.clashes())
        if info.context is not None:
            info.context[CLASHES].extend(found)
        elif found:
            raise ValueError("; ".join(f"{keys[0]}: {text}" for keys, text in found))
        return self


def decode(value: Any, annotation: Any) -> Any:
    """A value as YAML or the command line gives it, made what the annotation asks for where that is plain.

    A value that cannot be decoded is returned as it is: the type check that follows refuses it by name.
    """
    if get_origin(annotation) is tuple:
        return _decode_sequence(value, get_args(annotation)[0])
    if not isinstance(value, str):
        return value
    if annotation is Path:
        return Path(value)
    if annotation is bool:
        return {"true": True, "false": False}.get(value.lower(), value)
    return decode_number(value) if annotation in (int, float) else value


def decode_number(value: Any) -> Any:
    """`"1e-4"` as 0.0001 and `"16"` as 16; anything else unchanged."""
    if isinstance(value, str):
        for number in (int, float):
            try:
                return number(value)
            except ValueError:
                continue
    return value


def _decode_sequence(value: Any, item: Any) -> Any:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return value
    if not isinstance(value, list | tuple):
        return value
    plain = get_args(item)[0] if hasattr(item, "__metadata__") else item
    return tuple(decode(entry, plain) for entry in value)
