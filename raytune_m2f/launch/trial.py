"""A training: one of its own (`run_training`), or a trial of a study in Tune's process for it (`run_trial`).

With one worker both train in this process, with more they call `workers.py`. Ray is imported only where it is used.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from typing import Any

import torch

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError
from raytune_m2f.launch.job import TrialFunction, TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.session import ray_session
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.progress import Progress, ProgressFile, nobody, still
from raytune_m2f.study.space import refuse_fixed
from raytune_m2f.training.memory import share_gpu, start_fresh
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import Report, TrialContext, never_stop
from raytune_m2f.training.trial_dir import require_own, write_failure

log = logging.getLogger(__name__)


# A training of its own


def run_training(
    config: Config,
    output: str | PathLike[str],
    *,
    workers: int | None = None,
    gpus_per_worker: float | None = None,
    address: str | None = None,
    resume: bool = False,
    progress: Progress = nobody,
    function: TrialFunction | None = None,
) -> Report:
    """Train, and return the last report; the other arguments are those of `api.train`.

    Args:
        output: path or address (s3://, gs://) of the run's directory.
        workers: Ray Train workers; None with no `address` trains in this process.
        function: instead of `train_trial`, for tests.

    Raises:
        ModelError: MODEL.WEIGHTS names what is not there.
        InputError: `output` has checkpoints and `resume` is False, or the other way round; it holds a file of the
            user's that would be written over; or another process trains there.
    """
    if not str(output).strip():
        raise InputError("--output is empty: give a directory.")
    place = Place.at(output)
    _check_state(place, output, resume)
    if not resume and address is None:  # a cluster's files need not be here
        check_source(config.MODEL.WEIGHTS)
    job = TrialJob(config, (Objective.parse(config.metric),), function=function)
    if workers is not None or address is not None:
        return _train_on_ray(job, place, workers or 1, gpus_per_worker, address, progress)
    device = torch.device("cuda" if torch.cuda.is_available() and gpus_per_worker != 0 else "cpu")
    place.pull()
    try:
        with place.held(interactive=True):
            report: Report = job.train(place, TrialContext(place.path, device=device, progress=progress), never_stop)
            return report
    finally:
        place.push()


def _check_state(place: Place, output: str | PathLike[str], resume: bool) -> None:
    started = place.has_checkpoint()
    if started and not resume:
        raise InputError(f"--output {output} holds a training run: go on with it by --resume, or give a new directory.")
    if resume and not started:
        raise InputError(f"--resume: {output} has no checkpoint to go on from.")
    if not resume:
        require_own(place.path, "--output")


def _train_on_ray(
    job: TrialJob, place: Place, workers: int, gpus: float | None, address: str | None, progress: Progress
) -> Report:
    import ray

    from raytune_m2f.launch.workers import train_on_workers

    def tell(report: Report) -> bool:
        metric = job.metrics[0]
        log.info("iteration %d: %s %.2f", report["iteration"], metric.text, metric.value(report))
        return False

    place.require_unlocked()  # before Ray is started; its workers then take the lock
    with ExitStack() as stack:
        with still(log, "starting Ray"):
            stack.enter_context(ray_session(address))
        there = ray.cluster_resources()
        gpus = _check_room(workers, gpus, there.get("CPU", 0), there.get("GPU", 0))
        log.info("%d workers, %g GPUs each; their log is %s", workers, gpus, place.folder.address_of("log.txt"))
        job = replace(job, workers=(workers, workers), gpus_per_worker=gpus)
        return train_on_workers(job, place, tell, progress)


def _check_room(workers: int, gpus_per_worker: float | None, cpus: float, gpus: float) -> float:
    """GPUs of each worker. Raises InputError if the cluster, of so many CPUs and GPUs, has no room for the workers."""
    if gpus_per_worker is None:
        gpus_per_worker = 1.0 if gpus >= workers else 0.0
    if cpus < workers or gpus < workers * gpus_per_worker:
        raise InputError(
            f"--workers {workers} need {workers} CPUs and {workers * gpus_per_worker:g} GPUs; the cluster has "
            f"{cpus:g} and {gpus:g}. Ask for fewer workers, or for a larger cluster."
        )
    return gpus_per_worker


# A trial of a study


def run_suggested(job: TrialJob, trials: str, suggested: dict[str, Any]) -> None:
    """Tune's trainable: run what the searcher suggested below `trials`, the path or address of all trials.

    It stands here, and not beside the searcher, so that a trial's process imports neither the driver nor Optuna.
    """
    number = suggested["number"]
    run_trial(job, Place.at(trials, f"{number:04d}"), number, suggested["values"])


def run_trial(job: TrialJob, place: Place, number: int, values: dict[str, Any]) -> None:
    """Train one trial with its values; it restores its own checkpoints, so that this also resumes it after a kill.

    An error becomes a failure in the trial's directory. Errors of Ray itself and a death of this process are the
    driver's business: the trial may be tried again. So it is with a store to which the failure could not be written.
    """
    from ray.exceptions import RayError

    from raytune_m2f.launch.nodes import NODE, own_node

    start_fresh()
    if job.workers[1] == 1:  # of several, each worker pulls into a copy of its own
        place.pull()
    place.note(NODE, own_node())
    try:
        _train(job, place, number, values)
    except RayError:
        raise
    except Exception as error:
        write_failure(place.path, error)
    finally:
        place.push()


def _train(job: TrialJob, place: Place, number: int, values: dict[str, Any]) -> None:
    from ray import tune

    source = f"search space, trial {number}"
    refuse_fixed(values, source)
    job = replace(job, config=job.config.with_values(values, source=source))

    def tell(report: Report) -> bool:
        job.check(report)  # what is missing or NaN fails here, in the trial, not in the driver
        tune.report({"report": json.dumps(report)})  # returns when the driver has noted it
        return place.stop_requested()

    if job.workers[1] > 1:
        from raytune_m2f.launch.workers import train_on_workers  # a second of imports that one worker does not need

        train_on_workers(job, place, tell)
    else:
        _train_alone(job, place, tell)


def _train_alone(job: TrialJob, place: Place, tell: Callable[[Report], bool]) -> None:
    """With the one worker that this process is."""
    from raytune_m2f.launch.nodes import Announcement, own_node

    torch.set_num_threads(job.cpus_per_worker)
    device = torch.device("cuda" if job.gpus_per_worker else "cpu")
    share_gpu(device, job.gpus_per_worker)
    with place.held(), Announcement([own_node()]) as announced:
        told = ProgressFile(place.path)
        try:
            job.train(place, TrialContext(place.path, device=device, save_now=announced.due, progress=told), tell)
        except Exception:
            log.exception("the training failed")  # to the trial's log
            raise
