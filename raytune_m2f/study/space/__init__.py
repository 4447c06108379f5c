"""Search spaces: which keys of the configuration Optuna may change, and within what range.

A search space is a YAML file, one dotted key of the configuration per line:

    SOLVER.BASE_LR:                      {type: loguniform, low: 1.0e-5, high: 1.0e-3}
    SOLVER.WEIGHT_DECAY:                 {type: uniform, low: 0.0, high: 0.1}
    SOLVER.IMS_PER_BATCH:                {type: categorical, choices: [4, 8, 16]}
    MODEL.MASK_FORMER.NUM_OBJECT_QUERIES: {type: int, low: 20, high: 300, step: 10}     # or log: true
    MODEL.MASK_FORMER.CLASS_WEIGHT:      {type: share, low: 0.5, high: 10.0}            # of the sum of all shares
    MODEL.MASK_FORMER.MASK_WEIGHT:       {type: share, low: 1.0, high: 20.0}

A key that means something only with a certain value of another is searched only there:

    SOLVER.LR_SCHEDULER_NAME:            {type: categorical, choices: [WarmupCosineLR, WarmupPolyLR]}
    SOLVER.POLY_LR_POWER:                {type: uniform, low: 0.5, high: 2.0,
                                          when: {SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR}}     # or a list of values

A range without steps needs to know how many of its values a grid takes (`--sampler grid`; the others ignore it):

    SOLVER.BASE_LR:                      {type: loguniform, low: 1.0e-6, high: 1.0e-4, points: 5}

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
from optuna.trial import Trial

from raytune_m2f.config import Config
from raytune_m2f.config.build import in_one_message
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.study.space.check import find_problems
from raytune_m2f.study.space.entries import Entry, active, is_met, parents_first, resolve, share_problems, when_problems


@dataclass(frozen=True)
class SearchSpace:
    """What may vary between the trials of a study.

    Attributes:
        source: the file or name that an error message gives.
        entries: what may vary in each dotted key, in the order of the file.
    """

    source: str
    entries: dict[str, Entry]

    @classmethod
    def from_dict(cls, lines: Mapping[Any, Any], source: str = "search space") -> SearchSpace:
        """A search space from `{key: {type: ..., ...}}`, checked by itself.

        Raises:
            SearchSpaceError: naming every key whose entry is wrong, what was got and what is allowed.
        """
        if not lines:
            raise SearchSpaceError(
                f"{source}: the search space is empty; "
                "add a line such as SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}"
            )
        entries: dict[str, Entry] = {}
        problems: list[str] = []
        for key, line in lines.items():
            try:
                entries[str(key)] = Entry.read(line)
            except ValueError as problem:
                problems.append(f"{key}: {problem}")
        if not problems:
            problems = [*when_problems(entries), *share_problems(entries)]
        _raise_if_any([f"{source}: {problem}" for problem in problems])
        return cls(source, entries)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """What `from_dict` reads; plain types, for study.yaml."""
        return {key: entry.to_dict() for key, entry in self.entries.items()}

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna's distribution of each key."""
        return {key: entry.distribution for key, entry in self.entries.items()}

    @property
    def conditional(self) -> frozenset[str]:
        """The keys that not every trial has."""
        return frozenset(key for key, entry in self.entries.items() if entry.when)

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A value for each key whose condition is met, parents first.

        A value that the trial already has is kept, so that a half-asked trial can be completed.
        """
        values: dict[str, Any] = {}
        for key in parents_first(self.entries):
            if is_met(self.entries[key], values):
                values[key] = _suggest_one(trial, key, self.entries[key].distribution)
        return values

    def resolve(self, params: Mapping[str, Any], config: Config) -> dict[str, Any]:
        """The values for the configuration of a trial: its params, with shares scaled to what `config` has."""
        return resolve(self.entries, params, config)

    def own_values(self, config: Config) -> dict[str, Any]:
        """The configuration's own values of the searched keys: a point known to be good, tried first."""
        return active(self.entries, {key: config.value(key) for key in self.entries})

    def contains(self, values: Mapping[str, Any]) -> list[str]:
        """The keys that a trial with these values would not have, or whose value lies outside its range."""
        kept = active(self.entries, values)
        return [key for key, value in values.items() if key not in kept or not self.entries[key].contains(value)]

    def check(self, config: Config) -> None:
        """Makes sure that every trial drawn from this space would have a valid configuration.

        Raises:
            SearchSpaceError: naming every key that does not exist, cannot be tuned, or has a value in its range
                that the configuration does not allow.
        """
        _raise_if_any(find_problems(self.entries, config, self.source))


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
    folder = Path(str(files("raytune_m2f"))) / "search_spaces"
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


def _suggest_one(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)
