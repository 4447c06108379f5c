"""The configuration of one experiment: detectron2's and Mask2Former's keys, and ours beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from raytune_m2f.config.build import Layer, build, check
from raytune_m2f.config.fields.base import Section, fixed
from raytune_m2f.config.fields.data import DataLoader, DatasetEntry, Datasets, Input, Test
from raytune_m2f.config.fields.model import Model
from raytune_m2f.config.fields.solver import Solver
from raytune_m2f.config.keys import known_keys, unknown_key
from raytune_m2f.config.nested import flatten, merge, nest
from raytune_m2f.errors import ConfigError


class Config(Section):
    """One experiment. Immutable; attributes are the sections of the YAML file: `config.SOLVER.BASE_LR`."""

    VERSION: int = fixed(2, "Version of detectron2's configuration format [version].")
    ENGINE: Literal["native", "detectron2"] = Field(
        "native",
        description="What makes batches of data sets and metrics of predictions; one for a whole study.",
    )
    SEED: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed of everything random: the same seed, the same run [seed]."
    )
    MODEL: Model = Model()
    SOLVER: Solver = Solver()
    INPUT: Input = Input()
    DATASETS: Datasets = Datasets()
    DATALOADER: DataLoader = DataLoader()
    TEST: Test = Test()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "configuration") -> Config:
        """A configuration from nested dictionaries; keys that are left out have their defaults.

        Args:
            values: what `to_dict` gives, or a part of it. Relative paths start at the working directory.
            source: what an error message calls the values.

        Raises:
            ConfigError: naming every unknown key, wrong value and clash.
        """
        return build(cls, [Layer(source, values, Path.cwd())])

    def with_values(self, values: Mapping[str, Any], source: str = "new values") -> Config:
        """A copy with some dotted keys replaced, checked as a whole.

        Raises:
            ConfigError: naming `source`, the key, what was got and what is allowed.
        """
        return build(type(self), self._layers(values, source))

    def problems(self, values: Mapping[str, Any], source: str = "new values") -> list[str]:
        """The lines of the error that `with_values` would raise; empty if it would not."""
        return check(type(self), self._layers(values, source))[1]

    def _layers(self, values: Mapping[str, Any], source: str) -> list[Layer]:
        nested: dict[str, Any] = {}
        for key, value in values.items():
            nested = merge(nested, nest(key, value))
        here = Path.cwd()
        return [Layer("configuration", self.to_dict(), here), Layer(source, nested, here)]

    def value(self, key: str) -> Any:
        """The value of a dotted key.

        Raises:
            ConfigError: if there is no such key, or it is a section.
        """
        node: Any = self
        for part in key.split("."):
            if isinstance(node, Section) and part in type(node).model_fields:
                node = getattr(node, part)
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                raise ConfigError(f"{key}: {unknown_key(key, known_keys(type(self)))}")
        if isinstance(node, Section):
            raise ConfigError(
                f"{key}: a section; name a key in it, such as {key}.{next(iter(type(node).model_fields))}"
            )
        return node

    def dataset(self, name: str) -> DatasetEntry:
        """Where the data set `name` lies.

        Raises:
            ConfigError: if it is not registered; with the lines to add.
        """
        if name in self.DATASETS.REGISTER:
            return self.DATASETS.REGISTER[name]
        registered = ", ".join(self.DATASETS.REGISTER) or "none"
        raise ConfigError(
            f"DATASETS.REGISTER: the data set {name!r} is not registered (registered: {registered}). "
            "Add to the configuration file:\n"
            f"DATASETS:\n  REGISTER:\n    {name}:\n"
            "      annotations: path/to/annotations.json\n      images: path/to/images"
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain types (text, numbers, lists), for YAML, JSON and Ray."""
        return self.model_dump(mode="json")

    def flatten(self) -> dict[str, Any]:
        """Dotted keys to plain values."""
        return flatten(self.to_dict())

    def to_yaml(self) -> str:
        """A file that `load_config` reads as this same configuration."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True)
