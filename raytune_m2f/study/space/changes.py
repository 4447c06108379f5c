"""Whether a study can continue with another search space: `extend --space`."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from raytune_m2f.study.space.entries import Categorical, Entry
from raytune_m2f.study.space.space import SearchSpace


def space_changes(
    old: SearchSpace, new: SearchSpace, sampler: str = "tpe", trials: Iterable[FrozenTrial] = ()
) -> list[str]:
    """A line for every change with which a study cannot continue; empty if it can.

    Keys may be added and removed, ranges made wider or narrower, conditions, steps and points be changed. A key keeps
    its type, whether it is logarithmic, and its choices: Optuna refuses to draw it otherwise. `cmaes` keeps its whole
    space, for its state has one dimension for each range.

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
