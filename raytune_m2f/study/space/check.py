"""A search space found by name or path, checked for a configuration and for a study that has trials of another one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from raytune_m2f.config import Config
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import ConfigError, SearchSpaceError, did_you_mean, first_of, join_problems
from raytune_m2f.study.space.entries import Categorical, Entry, IntRange
from raytune_m2f.study.space.space import SearchSpace

NOT_TUNABLE: dict[str, str] = {
    "DATASETS": "trials on different data could not be compared",
    "TEST": "trials evaluated in different ways could not be compared",
    "SOLVER.MAX_ITER": "trials of different length could not be compared; the scheduler stops the poor ones early",
    "ENGINE": "a study never mixes engines",
    "VERSION": "it is the version of the file format",
    "SOLVER.CHECKPOINT_PERIOD": "it changes no result",
    "SOLVER.MICRO_BATCH": "it changes memory and speed, not the result; search SOLVER.IMS_PER_BATCH",
    "DATALOADER.NUM_WORKERS": "it changes speed, not the result",
    "MODEL.WEIGHTS": "other weights are another experiment: make a study for each",
    "MODEL.META_ARCHITECTURE": "its values name the same network",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": "the annotations decide it",
    "MODEL.ROI_HEADS.NUM_CLASSES": "the annotations decide it",
    "MODEL.RETINANET.NUM_CLASSES": "the annotations decide it",
}
"""Keys, with all below them, that a study cannot vary, and why."""

NEIGHBOURS = 100
"""How many whole numbers after the low end of a range are tried one by one."""

SHOWN = 3
"""Keys that a note names; the others it counts."""


def packaged_spaces() -> dict[str, Path]:
    """The search spaces that ship with the package: name to file."""
    folder = Path(str(files("raytune_m2f"))) / "search_spaces"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_space(name_or_path: str | Path, config: Config | None) -> SearchSpace:
    """A search space that ships with the package (`default`), or one of your own (a path).

    Args:
        config: what the space is checked for; None checks it by itself.

    Raises:
        SearchSpaceError: if there is no such space, or it does not fit the configuration.
    """
    packaged, own = packaged_spaces(), Path(name_or_path)
    path = packaged.get(str(name_or_path), own)
    if path is own and not own.is_file():
        raise SearchSpaceError(
            f"{name_or_path}: no such search space{did_you_mean(own.stem, packaged)} "
            f"Allowed: a YAML file, or one of {', '.join(packaged)}"
        )
    space = SearchSpace.from_dict(read_yaml(path, SearchSpaceError), source=str(name_or_path))
    if config is not None:
        check_space(space, config)
    return space


def check_space(space: SearchSpace, config: Config) -> None:
    """Makes sure that every trial drawn from this space would have a valid configuration.

    Raises:
        SearchSpaceError: naming every key that does not exist, cannot be tuned, or has a value in its range
            that the configuration does not allow.
    """
    problems: dict[str, str] = {}  # one for each key: that 66 and 67 are wrong too says no more than 65
    for key, entry in space.entries.items():
        if text := _key_problem(key, entry, config):
            problems[key] = f"{space.source}: {key}: {text}"
    rest = SearchSpace(space.source, {key: entry for key, entry in space.entries.items() if key not in problems})
    for values in _trials(rest):
        for line in config.problems(rest.resolve(values, config), space.source):
            problems.setdefault(line.removeprefix(f"{space.source}: ").partition(":")[0], line)
    if problems:
        raise SearchSpaceError(join_problems(list(problems.values())))


def unread_priors(space: SearchSpace, sampler: str) -> list[str]:
    """A note on the priors of a space, if this sampler does not read them; empty if there are none."""
    keys = [key for key, entry in space.entries.items() if entry.prior is not None]
    if not keys or sampler == "auto":
        return []
    named = ", ".join(first_of(keys, SHOWN))
    return [f"{space.source}: the prior of {named} has no effect: --sampler {sampler} reads none, only auto does"]


def refuse_fixed(values: Mapping[str, Any], source: str) -> None:
    """Refuse values that no search space may have; a stored study's are not checked again by anything else.

    Raises:
        SearchSpaceError: naming the first.
    """
    for key in values:
        if why := _why_fixed(key):
            raise SearchSpaceError(f"{source}: {key}: cannot be tuned: {why}")


def _why_fixed(key: str) -> str:
    return next((why for prefix, why in NOT_TUNABLE.items() if f"{key}.".startswith(f"{prefix}.")), "")


def _key_problem(key: str, entry: Entry, config: Config) -> str:
    """Why a key cannot be searched; empty if it can."""
    try:
        value = config.value(key)
    except ConfigError as problem:
        return str(problem).removeprefix(f"{key}: ")
    if why := _why_fixed(key):
        return f"cannot be tuned: {why}"
    if not isinstance(value, bool | int | float | str):
        return "cannot be tuned: its value is a list, and Optuna draws numbers, text, true or false"
    if entry.type == "share" and (isinstance(value, bool | str) or value <= 0):
        return f"the configuration's own value is {value!r}, allowed for a share: a number above 0"
    return ""


def _trials(space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Values as a trial can have them: each point of each key, then each pair of ends, which may clash where neither
    does alone. What a conditional key needs is set for it."""
    ends: dict[str, Sequence[Any]] = {
        key: entry.choices if isinstance(entry, Categorical) else (entry.low, entry.high)
        for key, entry in space.entries.items()
    }
    needed = {key: _condition_of(space, key) for key in ends}
    start = {key: values[0] for key, values in ends.items()}
    for key, entry in space.entries.items():
        for value in (*ends[key], *_after_low(entry)):
            yield space.active({**start, **needed[key], key: value})
    for one, other in itertools.combinations(ends, 2):
        settings = [needed[one] | needed[other], needed[other] | needed[one]]
        for setting in settings[: 1 + (settings[0] != settings[1])]:
            for a, b in itertools.product(ends[one], ends[other]):
                yield space.active({**start, **setting, one: a, other: b})


def _condition_of(space: SearchSpace, key: str) -> dict[str, Any]:
    """Values of other keys with which this one is searched: of each the first that is allowed."""
    values: dict[str, Any] = {}
    for parent, allowed in space.entries[key].when.items():
        if parent in space.entries:
            values |= {**_condition_of(space, parent), parent: allowed[0]}
    return values


def _after_low(entry: Entry) -> Sequence[int]:
    """The first whole numbers after the low end: a rule such as "divisible by 8" shows within them."""
    return range(entry.low, entry.high, entry.step)[1:NEIGHBOURS] if isinstance(entry, IntRange) else ()


def space_changes(
    old: SearchSpace, new: SearchSpace, sampler: str = "tpe", trials: Iterable[FrozenTrial] = ()
) -> list[str]:
    """A line for every change with which a study cannot continue; empty if it can.

    Keys may be added and removed, ranges made wider or narrower, conditions, steps, points and priors be changed. A key
    keeps its type, whether it is logarithmic, and its choices: Optuna refuses to draw it otherwise. `cmaes` keeps its
    whole space, for its state has one dimension for each range.

    Args:
        sampler: one of SAMPLERS.
        trials: of the study; a key that was removed earlier and comes back is compared with what they drew.
    """
    before = {name: found for trial in trials for name, found in trial.distributions.items()} | old.distributions
    lines = []
    for key, entry in new.entries.items():
        was_share = key in (old if key in old.entries else new).shares  # Optuna does not know
        if key in before and (problem := _problem(before[key], was_share, entry)):
            lines.append(f"{new.source}: {key}: {problem}, or a new study")
    if sampler == "cmaes" and not lines and _ranges(old) != _ranges(new):
        lines.append(f"{new.source}: the ranges were changed, but cmaes keeps its own for good; start a new study")
    return lines


def _problem(old: BaseDistribution, was_share: bool, entry: Entry) -> str:
    """Why a key cannot have this entry from now on, and what is allowed; empty if it can."""
    new, share = entry.distribution, entry.type == "share"
    (before, drew), (_, draws) = _kind(old, was_share), _kind(new, share)
    allowed = f"allowed: type: {before} with any low and high"
    if was_share != share:
        was = "a share" if was_share else "no share"
        return f"it was {was}, so that the values of the trials so far would mean others; {allowed}"
    if isinstance(old, CategoricalDistribution):
        allowed = f"allowed: {{type: categorical, choices: {list(old.choices)}}}"
    if drew != draws:
        return f"got {draws}, but the trials so far drew {drew}; {allowed}"
    if isinstance(entry, Categorical) and old != new:
        return f"got choices {list(entry.choices)}, but choices are fixed for a study, in their order; {allowed}"
    return ""


def _kind(distribution: BaseDistribution, share: bool) -> tuple[str, str]:
    """The type in a search space, and the words for what Optuna distinguishes."""
    if isinstance(distribution, CategoricalDistribution):
        return "categorical", "a choice"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    log = distribution.log
    scale = f"on a {'logarithmic' if log else 'linear'} scale"
    if isinstance(distribution, IntDistribution):
        return "int, log: true" if log else "int", f"whole numbers {scale}"
    return "share" if share else "loguniform" if log else "uniform", f"numbers {scale}"


def _ranges(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The keys whose ranges cmaes has in its state."""
    return {
        key: entry.distribution
        for key, entry in space.entries.items()
        if key not in space.conditional and not isinstance(entry, Categorical)
    }
