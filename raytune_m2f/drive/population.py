"""Population based training: which trial takes the place of one that ended, and with which values.

A trial that ends at a rung leaves a place. The next trial takes it: it starts from the checkpoint that one of the best
trials had at that rung (kept as rung_<iteration>.pth, for a trial itself keeps its newest two only), and its learning
rate and loss weights are the other's times 0.8 or 1.25 (Jaderberg et al., Population Based Training of Neural Networks,
2017, appendix A: "perturb"). What shapes the network or the batch stays as it was, for the checkpoint would not fit or
its schedule would change.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState

from raytune_m2f.errors import TrainingError
from raytune_m2f.study.record.record import Record
from raytune_m2f.training.checkpoint_files import iteration_file, newest_first, rung_file
from raytune_m2f.training.trial_dir import FAILURE, write_failure

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
        parents = [number for number in record.index.rungs.best(rung) if _may_be_parent(record, number, start)]
        if not parents:
            continue  # an ordinary trial takes the place
        parent = int(random.choice(parents))
        values = perturb(record.trial(parent).params, record.plan.space.distributions, random)
        attributes = {"origin": "pbt", "parent": parent, "start": start, "replaces": replaced}
        record.study.enqueue_trial(values, user_attrs=attributes)
        record.index.add(record.trials(TrialState.WAITING)[-1])
        return


def _may_be_parent(record: Record, number: int, iteration: int) -> bool:
    """Whether its checkpoint is there, and fits a trial of the present space, which `extend` may have changed."""
    space, params = record.plan.space, record.trial(number).params
    record.directory.pull_trial(number, contents=False)
    complete = space.active({**space.own_values(record.plan.config), **params}).keys() == params.keys()
    return complete and not space.contains(params) and rung_file(folder_of(record, number), iteration).exists()


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


def take_over(record: Record, number: int) -> bool:
    """Give a successor its parent's checkpoint, if it has none of its own yet; it is then resumed as after a break.

    Returns:
        False if that checkpoint was deleted: the trial has failed, which its directory says.
    """
    attributes, directory = record.trial(number).user_attrs, record.directory
    if "parent" not in attributes:
        return True
    directory.pull_trial(number, contents=False)
    directory.pull_trial(attributes["parent"], contents=False)
    if newest_first(folder_of(record, number)):
        return True
    theirs = rung_file(folder_of(record, attributes["parent"]), attributes["start"])
    if not theirs.exists():
        folder_of(record, number).mkdir(parents=True, exist_ok=True)
        error = TrainingError(
            f"the checkpoint {directory.address_of(theirs)}, from which the trial was to go on, is gone"
        )
        write_failure(directory.trial(number), error)
        directory.push(directory.trial(number) / FAILURE)
        return False
    directory.link(theirs, iteration_file(folder_of(record, number), attributes["start"]))
    return True


def folder_of(record: Record, number: int) -> Path:
    """Where a trial's checkpoints are."""
    return record.directory.weights(number).parent
