"""Population based training: who takes the place of a trial that ended, and with which values.

A trial that ends at a rung leaves a place. The next trial takes it: it starts from the checkpoint that one of the best
trials had at that rung, and its learning rate and loss weights are the other's times 0.8 or 1.25 (Jaderberg et al.,
Population Based Training of Neural Networks, 2017, appendix A: "perturb"). What shapes the network or the batch stays
as it was, for the checkpoint would not fit or its schedule would change.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution

from raytune_m2f.training.checkpoint import iteration_file
from raytune_m2f.tuning.record import Record

PERTURBED = (
    "SOLVER.BASE_LR",
    "SOLVER.BACKBONE_MULTIPLIER",
    "SOLVER.WEIGHT_DECAY",
    "MODEL.MASK_FORMER.CLASS_WEIGHT",
    "MODEL.MASK_FORMER.MASK_WEIGHT",
    "MODEL.MASK_FORMER.DICE_WEIGHT",
    "MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT",
    "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT",
)
FACTORS = (0.8, 1.25)


def enqueue_successor(record: Record) -> None:
    """Queue the trial that takes a vacant place, if there is one; it is the next that the record is asked for."""
    for replaced, rung in sorted(record.index.vacant.items()):
        random = np.random.default_rng([record.plan.settings.seed, replaced])
        start = record.index.evaluation_at(rung)
        parents = [number for number in record.index.rungs.best(rung) if _checkpoint(record, number, start).exists()]
        if not parents:
            continue  # their checkpoints are gone: an ordinary trial takes the place
        parent = int(random.choice(parents))
        values = perturb(record.trial(parent).params, record.plan.space.distributions, random)
        attributes = {"origin": "pbt", "parent": parent, "start": start, "replaces": replaced}
        record.study.enqueue_trial(values, user_attrs=attributes)
        del record.index.vacant[replaced]
        return


def perturb(
    params: dict[str, Any], distributions: dict[str, BaseDistribution], random: np.random.Generator
) -> dict[str, Any]:
    """The values with each learning rate and loss weight times 0.8 or 1.25, within its range."""
    values = dict(params)
    for key in PERTURBED:
        distribution = distributions.get(key)
        if key in values and isinstance(distribution, FloatDistribution) and distribution.step is None:
            changed = values[key] * float(random.choice(FACTORS))
            values[key] = min(max(changed, distribution.low), distribution.high)
    return values


def take_over(record: Record, number: int) -> None:
    """Give a successor its parent's checkpoint, if it has none of its own yet; it then goes on as after a break."""
    attributes = record.trial(number).user_attrs
    if "parent" not in attributes:
        return
    own, theirs = (_checkpoint(record, trial, attributes["start"]) for trial in (number, attributes["parent"]))
    if any(own.parent.glob("iter_*.pth")):
        return
    own.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(theirs, own)  # files of checkpoints are never changed, only replaced
    except OSError:  # not every shared storage has links
        temporary = own.with_name(f".{own.name}.tmp")
        shutil.copyfile(theirs, temporary)
        temporary.replace(own)


def _checkpoint(record: Record, number: int, iteration: int) -> Any:
    return iteration_file(record.directory.trial(number) / "checkpoints", iteration)
