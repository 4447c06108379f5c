"""`train`: one training, in this process or on a Ray cluster."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from raytune_m2f.config import Config, load_config
from raytune_m2f.config.load import Overrides
from raytune_m2f.errors import InputError
from raytune_m2f.loggers.names import require_loggers
from raytune_m2f.progress import Progress, as_context, line_progress, print_to_stderr

if TYPE_CHECKING:
    from raytune_m2f.training.reports import Report

log = logging.getLogger(__name__)

PathOrAddress = str | os.PathLike[str]
"""A directory, or an address on an object store (s3://, gs://)."""
WorkProgress = Progress | AbstractContextManager[Progress] | None
"""Who is told how far the work is, entered for as long as it takes; None: lines on stderr."""


def train(
    config: PathOrAddress | Config,
    output: PathOrAddress,
    *,
    overrides: Overrides = (),
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    resume: bool = False,
    progress: WorkProgress = None,
) -> Report:
    """Train one configuration; evaluate and checkpoint at every TEST.EVAL_PERIOD.

    Args:
        config: a file, the name of a shipped configuration, or a `Config`.
        output: the run's directory, for checkpoints, metrics.jsonl and log.txt.
        overrides: `["KEY=VALUE", ...]` or `{"KEY": value}`; they win over the configuration.
        workers: Ray Train workers; None trains in this process, where a debugger works.
        gpus_per_worker: None takes one each if there are as many.
        address: of a Ray cluster, such as "auto".
        resume: go on from the newest checkpoint in `output`.
        progress: called as `progress(done, total, **facts)`; None prints lines to stderr.

    Returns:
        the last report: metrics by name, and the iteration.

    Raises:
        ConfigError, DatasetError, ModelError: the configuration, the data or MODEL.WEIGHTS are wrong.
        InputError: `output` has checkpoints and `resume` is False, or the other way round.
        TrainingError: the training could not go on.
    """
    loaded = config_of(config, overrides)
    require_loggers(loaded.LOGGERS, output)
    log.info("training: %s; log: %s/log.txt", describe_training(loaded), os.fspath(output).rstrip("/"))
    from raytune_m2f.launch.trial import run_training  # with torch: only now that the configuration is right

    with as_context(progress or line_progress("training", print_to_stderr)) as told:
        return run_training(
            loaded,
            output,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            address=address,
            resume=resume,
            progress=told,
        )


def config_of(config: PathOrAddress | Config, overrides: Overrides) -> Config:
    if not isinstance(config, Config):
        return load_config(os.fspath(config), overrides)
    if not overrides:
        return config
    if not isinstance(overrides, Mapping):
        raise InputError("overrides of a Config: give a dictionary, such as {'SOLVER.BASE_LR': 1e-4}")
    return config.with_values(overrides, source="overrides")


def describe_training(config: Config) -> str:
    """How long and on what is trained: "400 iterations of 4 images, scored each 50; heads: ripeness, damage"."""
    period, end = config.value("TEST.EVAL_PERIOD"), config.value("SOLVER.MAX_ITER")
    scored = f"scored each {period}" if 0 < period < end else "scored at the end"
    text = f"{end} iterations of {config.value('SOLVER.IMS_PER_BATCH')} images, {scored}"
    if not config.knows("DATASETS.SUBCATEGORIES"):
        return text
    return f"{text}; heads: {', '.join(config.value('DATASETS.SUBCATEGORIES')) or 'none'}"
