"""One training run, in this process or over Ray Train workers."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike

import torch

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError
from raytune_m2f.launch.job import TrialFunction, TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.progress import Progress, nobody, still
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import Report, never_stop
from raytune_m2f.training.trial_dir import require_own

log = logging.getLogger(__name__)


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
    """Train, and return the last report.

    Args:
        output: the run's directory, or its address on a store (s3://, gs://).
        workers: Ray Train workers; None with no `address` trains in this process, where a debugger works.
        gpus_per_worker: None takes one each if there are as many.
        address: of a Ray cluster.
        resume: from the newest checkpoint in `output`, which may otherwise have none.
        progress: told how many iterations are done, of how many.
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
            report: Report = job.train(place, never_stop, device=device, progress=progress)
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
    import ray  # only where it is asked for

    from raytune_m2f.launch.session import ray_session
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
