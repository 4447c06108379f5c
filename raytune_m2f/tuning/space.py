"""Search spaces: which keys of the configuration Optuna may change, and within what range.

A search space is a YAML file, one dotted key of the configuration per line:

    SOLVER.BASE_LR:                      {type: loguniform, low: 1.0e-5, high: 1.0e-3}
    SOLVER.WEIGHT_DECAY:                 {type: uniform, low: 0.0, high: 0.1}
    SOLVER.IMS_PER_BATCH:                {type: categorical, choices: [4, 8, 16]}
    MODEL.MASK_FORMER.NUM_OBJECT_QUERIES: {type: int, low: 20, high: 300, step: 10}     # or log: true

The ones that ship with the package are named, not given as a path: `--space default`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from raytune_m2f.config import Config
from raytune_m2f.config.build import in_one_message
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.tuning.space_check import find_problems
from raytune_m2f.tuning.space_entry import distribution_of, entry_of


@dataclass(frozen=True)
class SearchSpace:
    """What may vary between the trials of a study.

    Attributes:
        source: the file or name that an error message gives.
        distributions: Optuna's distribution of each dotted key, in the order of the file.
    """

    source: str
    distributions: dict[str, BaseDistribution]

    @classmethod
    def from_dict(cls, entries: Mapping[Any, Any], source: str = "search space") -> SearchSpace:
        """A search space from `{key: {type: ..., ...}}`, each entry checked by itself.

        Raises:
            SearchSpaceError: naming every key whose entry is wrong, what was got and what is allowed.
        """
        if not entries:
            raise SearchSpaceError(
                f"{source}: the search space is empty; "
                "add a line such as SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}"
            )
        distributions: dict[str, BaseDistribution] = {}
        problems: list[str] = []
        for key, entry in entries.items():
            try:
                distributions[str(key)] = distribution_of(entry)
            except ValueError as problem:
                problems.append(f"{source}: {key}: {problem}")
        _raise_if_any(problems)
        return cls(source, distributions)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """What `from_dict` reads; plain types, for study.yaml."""
        return {key: entry_of(distribution) for key, distribution in self.distributions.items()}

    def own_values(self, config: Config) -> dict[str, Any]:
        """The configuration's own values of the searched keys: a point known to be good, tried first."""
        return {key: config.value(key) for key in self.distributions}

    def contains(self, values: Mapping[str, Any]) -> list[str]:
        """The keys whose value lies outside its range, or that are not searched; empty if the point is inside."""
        return [key for key, value in values.items() if not self._is_inside(key, value)]

    def check(self, config: Config) -> None:
        """Makes sure that every trial drawn from this space would have a valid configuration.

        Raises:
            SearchSpaceError: naming every key that does not exist, cannot be tuned, or has a value in its range
                that the configuration does not allow.
        """
        _raise_if_any(find_problems(self.distributions, config, self.source))

    def _is_inside(self, key: str, value: Any) -> bool:
        distribution = self.distributions.get(key)
        if isinstance(distribution, CategoricalDistribution):
            return value in distribution.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if isinstance(distribution, IntDistribution):
            reached = (value - distribution.low) % distribution.step == 0
            return reached and distribution.low <= value <= distribution.high
        return isinstance(distribution, FloatDistribution) and distribution.low <= value <= distribution.high


def load_space(name_or_path: str | Path, config: Config) -> SearchSpace:
    """A search space that ships with the package (`default`), or one of your own (a path), checked for `config`.

    Raises:
        SearchSpaceError: if there is no such space, or it does not fit the configuration.
    """
    path = _find(name_or_path)
    space = SearchSpace.from_dict(read_yaml(path, SearchSpaceError), source=str(name_or_path))
    space.check(config)
    return space


def packaged_spaces() -> dict[str, Path]:
    """The search spaces that ship with the package: name to file."""
    folder = Path(str(files("search_spaces")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _find(name_or_path: str | Path) -> Path:
    packaged = packaged_spaces()
    if str(name_or_path) in packaged:
        return packaged[str(name_or_path)]
    path = Path(name_or_path)
    if path.is_file():
        return path
    close = difflib.get_close_matches(path.stem, packaged, n=1)
    raise SearchSpaceError(
        f"{name_or_path}: no such search space{f'; did you mean {close[0]}?' if close else ''} "
        f"Allowed: a YAML file, or one of {', '.join(packaged)}"
    )


def _raise_if_any(problems: list[str]) -> None:
    if problems:
        raise SearchSpaceError(in_one_message(problems))
