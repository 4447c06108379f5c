"""A trial, in the process that Ray Tune starts for it."""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.exceptions
import torch
from ray import tune

from raytune_m2f.config import Config
from raytune_m2f.launch.nodes import NODE, Announcement, note_node, own_node
from raytune_m2f.launch.ray_train import train_on_ray
from raytune_m2f.progress import ProgressFile
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.study.space.check import refuse_fixed
from raytune_m2f.training.memory import share_gpu, start_fresh
from raytune_m2f.training.objective import Constraint, Objective
from raytune_m2f.training.reports import Report, TrialContext
from raytune_m2f.training.trial_dir import STOP, occupied, pull_trial, push_trial, write_failure

TrialFunction = Callable[[Config, TrialContext], Any]
log = logging.getLogger(__name__)

TRAIN_TRIAL = "raytune_m2f.training.worker:train_trial"


@dataclass(frozen=True)
class TrialJob:
    """What is the same for every trial of a study; travels to the trials' processes.

    Attributes:
        config: of the study, as plain types.
        metrics, constraints: what every report must have (see `Objective`, `Constraint`); the first metric decides
            which checkpoint is the best.
        workers: the fewest and the most.
        gpus_per_worker: 0 trains on the CPU.
        keep: iterations whose checkpoints are never deleted.
        store: address of the study, if it is on a store.
        function: `train_trial`, or another with its signature, as `module:name` or itself; tests use this seam.
    """

    config: dict[str, Any]
    metrics: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    workers: tuple[int, int] = (1, 1)
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    crash_retries: int = 1
    keep: frozenset[int] = frozenset()
    store: str | None = None
    function: str | TrialFunction = TRAIN_TRIAL


def run_trial(job: TrialJob, output_dir: Path, number: int, values: dict[str, Any]) -> None:
    """Train one trial; it restores its own checkpoints, so that this is also how it goes on after a kill.

    An error becomes a failure in the trial's directory. Errors of Ray itself and a death of this process are the
    driver's business: the trial may be tried again. So it is with a store to which the failure could not be written.
    """
    start_fresh()
    if job.store is None:
        output_dir.mkdir(parents=True, exist_ok=True)
        note_node(output_dir)
        _run(job, output_dir, number, values)
        return
    mirror = Mirror.at(job.store, "trials", output_dir.name)
    if job.workers[1] == 1:
        pull_trial(mirror)
    note_node(mirror.folder)
    mirror.push(NODE)
    try:
        _run(job, mirror.folder, number, values, mirror)
    finally:
        push_trial(mirror)


def _run(job: TrialJob, output_dir: Path, number: int, values: dict[str, Any], mirror: Mirror | None = None) -> None:
    try:
        config = Config.from_dict(job.config, source="study.yaml")
        source = f"search space, trial {number}"
        refuse_fixed(values, source)
        config = config.with_values(values, source=source)
        _train(job, config, output_dir, mirror)
    except ray.exceptions.RayError:
        raise
    except Exception as error:
        write_failure(output_dir, error)


def _train(job: TrialJob, config: Config, output_dir: Path, mirror: Mirror | None) -> None:
    objectives = [Objective.parse(text) for text in job.metrics]
    bounds = [Constraint.parse(text) for text in job.constraints]

    def report(metrics: Report) -> bool:
        for objective in objectives:  # what is missing or NaN fails here, in the trial, not in the driver
            objective.value(metrics)
        for bound in bounds:
            bound.violation(metrics)
        if mirror is not None:
            mirror.sync()  # a driver that is killed now finds the report there
        tune.report({"report": json.dumps(metrics)})  # returns when the driver has noted it
        return (output_dir / STOP).exists() if mirror is None else mirror.exists(STOP)

    fewest, most = job.workers
    if most > 1:
        train_on_ray(
            config,
            output_dir,
            workers=most if fewest == most else (fewest, most),
            gpus_per_worker=job.gpus_per_worker,
            cpus_per_worker=job.cpus_per_worker,
            on_report=report,
            max_failures=job.crash_retries,
            metric=job.metrics[0],
            keep=job.keep,
            function=load_function(job.function),
            mirror=mirror,
        )
        return
    torch.set_num_threads(job.cpus_per_worker)
    device = torch.device("cuda" if job.gpus_per_worker else "cpu")
    share_gpu(device, job.gpus_per_worker)
    with occupied(output_dir, mirror=mirror), Announcement([own_node()]) as announced:
        context = TrialContext(
            output_dir,
            device=device,
            report=report,
            metric=job.metrics[0],
            keep=job.keep,
            save_now=announced.due,
            progress=ProgressFile(output_dir),
            mirror=mirror,
        )
        try:
            load_function(job.function)(config, context)
        except Exception:
            log.exception("the training failed")  # to the trial's log
            raise


def load_function(function: str | TrialFunction) -> TrialFunction:
    """`module:name` as the function that it names."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    found: TrialFunction = getattr(importlib.import_module(module), name)
    return found
