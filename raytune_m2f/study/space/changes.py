"""Whether a study can go on with another search space: `extend --space`."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from raytune_m2f.study.space.space import SearchSpace


def space_changes(
    old: SearchSpace, new: SearchSpace, sampler: str = "tpe", trials: Iterable[FrozenTrial] = ()
) -> list[str]:
    """A line for every change with which a study cannot go on; empty if it can.

    Keys may be added and removed, ranges made wider or narrower, conditions, steps and points be changed. A key keeps
    its type, whether it is logarithmic, and its choices: Optuna refuses to draw it otherwise. `cmaes` keeps its whole
    space, for its state has one dimension for each range.

    Args:
        sampler: one of SAMPLERS.
        trials: of the study; a key that was removed earlier and comes back is compared with what they drew.
    """
    before = {name: found for trial in trials for name, found in trial.distributions.items()} | old.distributions
    lines = []
    for key, after in new.distributions.items():
        share = key in new.shares
        was_share = key in old.shares if key in old.entries else share  # Optuna does not know
        if key in before and (problem := _problem(before[key], after, was_share, share)):
            lines.append(f"{new.source}: {key}: {problem}; {_allowed(before[key], was_share)}, or a new study")
    if sampler == "cmaes" and not lines and _ranges(old) != _ranges(new):
        lines.append(f"{new.source}: the ranges were changed, but cmaes keeps its own for good; start a new study")
    return lines


def _problem(old: BaseDistribution, new: BaseDistribution, was_share: bool, share: bool) -> str:
    """Why a key cannot go on like this; empty if it can."""
    if was_share != share:
        was = "a share" if was_share else "no share"
        return f"it was {was}, so that the values of the trials so far would mean others"
    if _kind(old) != _kind(new):
        return f"got {_kind(new)}, but the trials so far drew {_kind(old)}"
    if isinstance(new, CategoricalDistribution) and old != new:
        return f"got choices {list(new.choices)}, but choices are fixed for a study, in their order"
    return ""


def _kind(distribution: BaseDistribution) -> str:
    """What Optuna tells apart."""
    if isinstance(distribution, CategoricalDistribution):
        return "a choice"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    numbers = "whole numbers" if isinstance(distribution, IntDistribution) else "numbers"
    return f"{numbers} on a {'logarithmic' if distribution.log else 'linear'} scale"


def _allowed(old: BaseDistribution, share: bool) -> str:
    """What the new line may be."""
    if isinstance(old, CategoricalDistribution):
        return f"allowed: {{type: categorical, choices: {list(old.choices)}}}"
    assert isinstance(old, FloatDistribution | IntDistribution)
    if isinstance(old, IntDistribution):
        return f"allowed: type: int{', log: true' if old.log else ''} with any low and high"
    kind = "uniform" if not old.log else "share" if share else "loguniform"
    return f"allowed: type: {kind} with any low and high"


def _ranges(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The keys whose ranges cmaes has in its state."""
    return {
        key: distribution
        for key, distribution in space.distributions.items()
        if key not in space.conditional and not isinstance(distribution, CategoricalDistribution)
    }
