"""A trial of a study, in the process that Ray Tune starts for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ray.exceptions
import torch
from ray import tune

from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.nodes import NODE, Announcement, own_node
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.workers import train_on_workers
from raytune_m2f.progress import ProgressFile
from raytune_m2f.study.space.check import refuse_fixed
from raytune_m2f.training.memory import share_gpu, start_fresh
from raytune_m2f.training.reports import Report
from raytune_m2f.training.trial_dir import write_failure

log = logging.getLogger(__name__)


def run_trial(job: TrialJob, place: Place, number: int, values: dict[str, Any]) -> None:
    """Train one trial; it restores its own checkpoints, so that this is also how it continues after a kill.

    An error becomes a failure in the trial's directory. Errors of Ray itself and a death of this process are the
    driver's business: the trial may be tried again. So it is with a store to which the failure could not be written.

    Args:
        job: of the study.
        place: the trial's directory.
        number, values: of the trial; dotted keys of the configuration.
    """
    start_fresh()
    if job.workers[1] == 1:  # of several, each worker pulls into a copy of its own
        place.pull()
    place.note(NODE, own_node())
    try:
        _train(job, place, number, values)
    except ray.exceptions.RayError:
        raise
    except Exception as error:
        write_failure(place.path, error)
    finally:
        place.push()


def _train(job: TrialJob, place: Place, number: int, values: dict[str, Any]) -> None:
    source = f"search space, trial {number}"
    refuse_fixed(values, source)
    job = replace(job, config=job.config.with_values(values, source=source))

    def tell(report: Report) -> bool:
        job.check(report)  # what is missing or NaN fails here, in the trial, not in the driver
        tune.report({"report": json.dumps(report)})  # returns when the driver has noted it
        return place.stop_requested()

    if job.workers[1] > 1:
        train_on_workers(job, place, tell)
    else:
        _train_alone(job, place, tell)


def _train_alone(job: TrialJob, place: Place, tell: Callable[[Report], bool]) -> None:
    """With the one worker that this process is."""
    torch.set_num_threads(job.cpus_per_worker)
    device = torch.device("cuda" if job.gpus_per_worker else "cpu")
    share_gpu(device, job.gpus_per_worker)
    with place.held(), Announcement([own_node()]) as announced:
        try:
            job.train(place, tell, device=device, save_now=announced.due, progress=ProgressFile(place.path))
        except Exception:
            log.exception("the training failed")  # to the trial's log
            raise
