"""What is checked before a study is made: weights, data, and the search space against the data and the workers."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import SearchSpaceError, StudyError
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.check import BATCH, PERIOD, QUERIES, check_experiment
from raytune_m2f.training.objective import Constraint, Objective

SUBCATEGORY = "MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT"

log = logging.getLogger(__name__)


def check_before_start(
    config: Config,
    space: SearchSpace,
    *,
    workers: int,
    asked: Sequence[Objective | Constraint] = (),
    stops: bool = False,
) -> list[str]:
    """Read the data once as every trial will, and compare; the log says what was read.

    Args:
        asked: metrics and constraints, whose keys the reports must have.
        stops: whether trials are to be stopped early, by their reports.
    Returns:
        what the user should know but may want: what `check_experiment` finds, a weight of heads that the network does
        not have.

    Raises:
        DatasetError, ConfigError: the data or the configuration are wrong, or do not go together.
        ModelError: MODEL.WEIGHTS names what is not there; an address is not tried.
        SearchSpaceError: a batch in the space is smaller than the workers of a trial.
        StudyError: a metric or a constraint names what no report has, or no report comes in time to stop a trial.
    """
    check_source(config.MODEL.WEIGHTS)
    engine = build_engine(config)
    log.info("%s", engine.summary.text())
    smallest, largest = _values(config, space, BATCH)
    queries = _values(config, space, QUERIES)[0] if config.knows(QUERIES) else math.inf  # of our own network only
    notes = check_experiment(config, engine, asked=asked, largest_batch=largest, fewest_queries=queries)
    if stops:
        notes += _check_reports(config)
    if isinstance(config, AnyModelConfig):  # detectron2 looks at many of its keys only when it builds
        learner = engine.learner()
        learner.optimizer(config)
        learner.schedule(config)
    if smallest < workers:
        raise SearchSpaceError(
            f"{BATCH} can be {smallest:g}, but a trial has {workers} workers and each needs an image at least. Raise "
            "the smallest batch or give fewer --workers-per-trial."
        )
    if SUBCATEGORY in space.entries and not config.value("DATASETS.SUBCATEGORIES"):
        notes.append(
            f"{SUBCATEGORY} is searched, but changes nothing without subcategory heads (DATASETS.SUBCATEGORIES): copy "
            "the search space without it"
        )
    return notes


def _check_reports(config: Config) -> list[str]:
    """Reports that early stopping would wait for in vain: refused, or told where one at the very end was asked for."""
    period, end = config.TEST.EVAL_PERIOD, config.SOLVER.MAX_ITER
    if 0 < period < end:
        return []
    what = (
        f"{PERIOD} = {period} with SOLVER.MAX_ITER = {end}: trials report at their end only, none can be stopped early"
    )
    cure = f"{PERIOD}={max(1, end // 10)}, say, or --early-stopping none"
    if period == end:
        return [f"{what} ({cure})"]
    raise StudyError(f"{what}. Give {cure}.")


def _values(config: Config, space: SearchSpace, key: str) -> list[float]:
    """The smallest and the largest value of a key in a trial; without a conditional key it is the configuration's."""
    distribution: BaseDistribution | None = space.distributions.get(key)
    values = [float(config.value(key))] if distribution is None or key in space.conditional else []
    if isinstance(distribution, IntDistribution | FloatDistribution):
        values += [float(distribution.low), float(distribution.high)]
    elif isinstance(distribution, CategoricalDistribution):
        values += [float(choice) for choice in distribution.choices if isinstance(choice, int | float)]
    return [min(values), max(values)]
