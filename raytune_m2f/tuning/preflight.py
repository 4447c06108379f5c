"""What is checked before a study is made: weights, data, and the search space against the data and the workers."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.errors import SearchSpaceError, StudyError
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.training.objective import Constraint, Objective, quoted
from raytune_m2f.tuning.space import SearchSpace

BATCH = "SOLVER.IMS_PER_BATCH"
QUERIES = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
SUBCATEGORY = "MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT"


USAGE = ("loss", "seconds", "latency_ms", "memory_gb", "images")
"""Entries of a report beside the evaluator's that a study may maximise or bound."""


def check_before_start(
    config: Config, space: SearchSpace, *, workers: int, asked: Sequence[Objective | Constraint] = ()
) -> list[str]:
    """Read the data once as every trial will, and compare.

    Args:
        asked: metrics and constraints, whose keys the reports must have.
    Returns:
        what the user should know but may want: fewer queries than an image has instances, a weight of heads that
        the network does not have.

    Raises:
        DatasetError, ConfigError: the data or the configuration are wrong.
        ModelError: MODEL.WEIGHTS names what is not there; an address is not tried.
        SearchSpaceError: a batch in the space is smaller than the workers of a trial.
        StudyError: a metric or a constraint names what no report has.
    """
    check_source(config.MODEL.WEIGHTS)
    engine = build_engine(config)
    _check_keys(config, engine, asked)
    if isinstance(config, AnyModelConfig):  # detectron2 looks at many of its keys only when it builds
        learner = engine.learner()
        learner.scheduler(config, learner.optimizer(config))
    batch = _smallest(config, space, BATCH)
    if batch < workers:
        raise SearchSpaceError(
            f"{BATCH} can be {batch:g}, but a trial has {workers} workers and each needs an image at least. Raise the "
            "smallest batch or give fewer --workers-per-trial."
        )
    notes = []
    queries = _smallest(config, space, QUERIES) if config.knows(QUERIES) else math.inf  # of our own network only
    if queries < engine.most_instances:
        notes.append(
            f"an image has {engine.most_instances} instances, but {QUERIES} can be {queries:g}: such trials cannot "
            "find them all"
        )
    if SUBCATEGORY in space.entries and not config.value("DATASETS.SUBCATEGORIES"):
        notes.append(
            f"{SUBCATEGORY} is searched, but changes nothing without subcategory heads (DATASETS.SUBCATEGORIES): copy "
            "the search space without it"
        )
    return notes


def _check_keys(config: Config, engine: Engine, asked: Sequence[Objective | Constraint]) -> None:
    wanted = {key for entry in asked for key in entry.keys} - {config.metric, *USAGE}
    if not wanted:
        return  # the evaluation of nothing, which tells all keys, takes a while on a large test set
    known = [*USAGE, *engine.evaluator().evaluate()]
    for key in sorted(wanted - set(known)):
        close = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean {quoted(close[0])}?" if close else ""
        raise StudyError(f"no report will have {key!r}.{hint} Allowed: {', '.join(map(quoted, known))}")


def _smallest(config: Config, space: SearchSpace, key: str) -> float:
    """The smallest value that a key can take in a trial; without a conditional key it is the configuration's."""
    distribution: BaseDistribution | None = space.distributions.get(key)
    values = [float(config.value(key))] if distribution is None or key in space.conditional else []
    if isinstance(distribution, IntDistribution | FloatDistribution):
        values.append(float(distribution.low))
    elif isinstance(distribution, CategoricalDistribution):
        values += [float(choice) for choice in distribution.choices if isinstance(choice, int | float)]
    return min(values)
