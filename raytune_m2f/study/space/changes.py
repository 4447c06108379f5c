"""Whether a study can go on with another search space: `extend --space`."""

from __future__ import annotations

from collections.abc import Iterable

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.space.entries import Entry


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
    before = {
        name: Entry(distribution, share=name in new.entries and new.entries[name].share)  # what Optuna does not know
        for trial in trials
        for name, distribution in trial.distributions.items()
    }
    before |= old.entries
    lines = [
        f"{new.source}: {key}: {text}"
        for key, entry in new.entries.items()
        if key in before and (text := _refused(before[key], entry))
    ]
    if sampler == "cmaes" and not lines and _ranges(old) != _ranges(new):
        lines.append(f"{new.source}: the ranges were changed, but cmaes keeps its own for good; start a new study")
    return lines


def _refused(old: Entry, new: Entry) -> str:
    """Why a key cannot go on like this; empty if it can."""
    if old.share != new.share:
        was = "a share" if old.share else "no share"
        return f"it was {was}, so that the values of the trials so far would mean others; {_allowed(old)}"
    if _kind(old.distribution) != _kind(new.distribution):
        return f"got {_kind(new.distribution)}, but the trials so far drew {_kind(old.distribution)}; {_allowed(old)}"
    if isinstance(old.distribution, CategoricalDistribution) and old.distribution != new.distribution:
        choices = new.to_dict()["choices"]
        return f"got choices {choices}, but choices are fixed for a study, in their order; {_allowed(old)}"
    return ""


def _kind(distribution: BaseDistribution) -> str:
    """What Optuna tells apart."""
    if isinstance(distribution, CategoricalDistribution):
        return "a choice"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    numbers = "whole numbers" if isinstance(distribution, IntDistribution) else "numbers"
    return f"{numbers} on a {'logarithmic' if distribution.log else 'linear'} scale"


def _allowed(old: Entry) -> str:
    """What the new line may be."""
    line = old.to_dict()
    if line["type"] == "categorical":
        return f"allowed: {{type: categorical, choices: {line['choices']}}}, or a new study"
    log = ", log: true" if line.get("log") else ""
    return f"allowed: type: {line['type']}{log} with any low and high, or a new study"


def _ranges(space: SearchSpace) -> dict[str, BaseDistribution]:
    """The keys whose ranges cmaes has in its state."""
    return {
        key: distribution
        for key, distribution in space.distributions.items()
        if key not in space.conditional and not isinstance(distribution, CategoricalDistribution)
    }
