"""What is checked before a study is made: weights, data, and the search space against the data and the workers."""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_m2f.config import Config
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.training.weight_files import check_source
from raytune_m2f.tuning.space import SearchSpace

BATCH = "SOLVER.IMS_PER_BATCH"
QUERIES = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
SUBCATEGORY = "MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT"


def check_before_start(config: Config, space: SearchSpace, *, workers: int) -> list[str]:
    """Read the data once as every trial will, and compare.

    Returns:
        what the user should know but may want: fewer queries than an image has instances, a weight of heads that
        the network does not have.

    Raises:
        DatasetError, ConfigError: the data or the configuration are wrong.
        ModelError: MODEL.WEIGHTS names what is not there; an address is not tried.
        SearchSpaceError: a batch in the space is smaller than the workers of a trial.
    """
    check_source(config.MODEL.WEIGHTS)
    engine = build_engine(config)
    batch = _smallest(config, space, BATCH)
    if batch < workers:
        raise SearchSpaceError(
            f"{BATCH} can be {batch:g}, but a trial has {workers} workers and each needs an image at least. Raise the "
            "smallest batch or give fewer --workers-per-trial."
        )
    notes = []
    queries = _smallest(config, space, QUERIES)
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


def _smallest(config: Config, space: SearchSpace, key: str) -> float:
    """The smallest value that a key can take in a trial; without a conditional key it is the configuration's."""
    distribution: BaseDistribution | None = space.distributions.get(key)
    values = [float(config.value(key))] if distribution is None or key in space.conditional else []
    if isinstance(distribution, IntDistribution | FloatDistribution):
        values.append(float(distribution.low))
    elif isinstance(distribution, CategoricalDistribution):
        values += [float(choice) for choice in distribution.choices if isinstance(choice, int | float)]
    return min(values)
