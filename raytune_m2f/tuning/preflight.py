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


def check_before_start(config: Config, space: SearchSpace, *, workers: int) -> list[str]:
    """Read the data once as every trial will, and compare.

    Returns:
        what the user should know but may want: fewer queries than an image has instances.

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
    queries = _smallest(config, space, QUERIES)
    if queries < engine.most_instances:
        return [
            f"an image has {engine.most_instances} instances, but {QUERIES} can be {queries:g}: such trials cannot "
            "find them all"
        ]
    return []


def _smallest(config: Config, space: SearchSpace, key: str) -> float:
    """The smallest value that a key can take in a trial."""
    distribution: BaseDistribution | None = space.distributions.get(key)
    if isinstance(distribution, IntDistribution | FloatDistribution):
        return float(distribution.low)
    if isinstance(distribution, CategoricalDistribution):
        return min(float(choice) for choice in distribution.choices if isinstance(choice, int | float))
    return float(config.value(key))
