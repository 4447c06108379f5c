"""The configuration of one experiment: detectron2's and Mask2Former's keys, and ours beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field

from raytune_m2f.config.build import Layer, build, check
from raytune_m2f.config.fields.base import Problem, Section, fixed
from raytune_m2f.config.fields.data import (
    AnyDataLoader,
    AnyDatasets,
    AnyInput,
    AnyTest,
    DataLoader,
    DatasetEntry,
    Datasets,
    Input,
    Test,
)
from raytune_m2f.config.fields.model import AnyModel, Model
from raytune_m2f.config.fields.solver import AnySolver, ModelEma, Solver
from raytune_m2f.config.keys import complete, known_keys, unknown_engine_key, unknown_key
from raytune_m2f.config.yaml_file import flatten, merge, nest
from raytune_m2f.errors import ConfigError
from raytune_m2f.loggers.names import LoggerName

OURS: tuple[str, ...] = get_args(Model.model_fields["META_ARCHITECTURE"].annotation)
"""What MODEL.META_ARCHITECTURE calls our own network."""


class Config(Section):
    """One experiment. Immutable; attributes are the sections of the YAML file: `config.SOLVER.BASE_LR`."""

    VERSION: int = fixed(2, "Version of detectron2's configuration format [version].")
    ENGINE: Literal["native", "detectron2"] = Field(
        "native", description="What makes batches of data sets and metrics of predictions; one for a whole study."
    )
    SEED: int = Field(
        0, ge=0, le=2**31 - 1, description="Seed of everything random: the same seed, the same run [seed]."
    )
    LOGGERS: tuple[LoggerName, ...] = Field(
        (), description="Tools that get every report too: tensorboard, mlflow, wandb; each is an extra to install."
    )
    MODEL: Model = Model()
    SOLVER: Solver = Solver()
    MODEL_EMA: ModelEma = ModelEma()
    INPUT: Input = Input()
    DATASETS: Datasets = Datasets()
    DATALOADER: DataLoader = DataLoader()
    TEST: Test = Test()

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[Section]:
        """`AnyModelConfig` for a network of detectron2's; the subcategory heads are those of our own."""
        model = values.get("MODEL", {})
        if not isinstance(model, Mapping):
            return cls
        ours = model.get("META_ARCHITECTURE", OURS[0]) in OURS
        return AnyModelConfig if values.get("ENGINE") == "detectron2" and not ours else Config

    def clashes(self) -> Iterator[Problem]:
        if self.DATASETS.IMPORT and self.ENGINE == "native":
            yield Problem(
                ("DATASETS.IMPORT", "ENGINE"),
                f"got {list(self.DATASETS.IMPORT)}, but only ENGINE: detectron2 has catalogs to register in; set it, "
                "or name the files of a data set in DATASETS.REGISTER",
            )
        if self.ENGINE == "detectron2" and isinstance(self.INPUT, Input) and self.INPUT.COPY_PASTE.ENABLED:
            yield Problem(
                ("INPUT.COPY_PASTE.ENABLED", "ENGINE"),
                "got true with ENGINE: detectron2, whose mappers see one image at a time; only ENGINE: native pastes",
            )
        if isinstance(self.MODEL, Model) and not self.DATASETS.SUBCATEGORIES:
            for key in self.MODEL.MASK_FORMER.TEST.needs_heads:
                name = f"MODEL.MASK_FORMER.TEST.{key}"
                yield Problem(
                    (name, "DATASETS.SUBCATEGORIES"),
                    f"got {self.value(name)!r}, a sieve of subcategory heads, but DATASETS.SUBCATEGORIES names none; "
                    "name them, or leave the key out",
                )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "configuration", *, only_shown: bool = False) -> Config:
        """A configuration from nested dictionaries; keys that are left out have their defaults.

        Args:
            values: what `to_dict` gives, or a part of it. Relative paths start at the working directory.
            source: what an error message calls the values.
            only_shown: to be looked at, not used: no engine is asked for its keys, no module of DATASETS.IMPORT runs.

        Raises:
            ConfigError: naming every unknown key, wrong value and clash.
        """
        return build(cls, [Layer(source, values, Path.cwd())], complete=not only_shown)

    def with_values(self, values: Mapping[str, Any], source: str = "new values") -> Config:
        """A copy with some dotted keys replaced, checked as a whole.

        Raises:
            ConfigError: naming `source`, the key, what was got and what is allowed.
        """
        return build(type(self), self._layers(values, source))

    def problems(self, values: Mapping[str, Any], source: str = "new values") -> list[str]:
        """The lines of the error that `with_values` would raise; empty if it would not."""
        return check(type(self), self._layers(values, source))[1]

    @property
    def metric(self) -> str:
        """The metric that ranks trainings by default."""
        return "segm/AP"

    def knows(self, key: str) -> bool:
        """Whether there is a dotted key with a value."""
        try:
            self.value(key)
        except ConfigError:
            return False
        return True

    def _layers(self, values: Mapping[str, Any], source: str) -> list[Layer]:
        here = Path.cwd()
        nested: dict[Any, Any] = reduce(merge, (nest(key, value) for key, value in values.items()), {})
        return [Layer("configuration", self.to_dict(), here), Layer(source, nested, here)]

    def value(self, key: str) -> Any:
        """The value of a dotted key.

        Raises:
            ConfigError: if there is no such key, or it is a section.
        """
        node: Any = self
        for part in key.split("."):
            inside = dict(node) if isinstance(node, Section) else node
            if not isinstance(inside, dict) or part not in inside:
                raise ConfigError(f"{key}: {self._unknown(key)}")
            node = inside[part]
        if isinstance(node, Section) or (isinstance(node, dict) and not key.startswith("DATASETS.")):
            raise ConfigError(f"{key}: a section; name a key in it, such as {key}.{next(iter(dict(node)))}")
        return node

    def _unknown(self, key: str) -> str:
        return unknown_key(key, known_keys(type(self)))

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


class AnyModelConfig(Config, extra="allow"):
    """An experiment with any other network of detectron2's. Keys that are no fields here are detectron2's own.

    Each has a value, given or detectron2's default: as an attribute, by `value`, and in what `to_dict` gives.
    """

    MODEL: AnyModel = AnyModel()  # type: ignore[assignment]
    SOLVER: AnySolver = AnySolver()  # type: ignore[assignment]
    INPUT: AnyInput = AnyInput()  # type: ignore[assignment]
    DATASETS: AnyDatasets = AnyDatasets()  # type: ignore[assignment]
    DATALOADER: AnyDataLoader = AnyDataLoader()
    TEST: AnyTest = AnyTest()  # type: ignore[assignment]

    @classmethod
    def complete(cls, values: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
        return complete(values["ENGINE"], values, known_keys(cls))

    @property
    def metric(self) -> str:
        return "segm/AP" if self.value("MODEL.MASK_ON") else "bbox/AP"

    def _unknown(self, key: str) -> str:
        return unknown_engine_key(key, self.flatten())
