"""One training run, in this process or in Ray Train workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.progress import Progress, nobody, still
from raytune_m2f.storage.address import is_address
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.training.checkpoint_files import newest_first
from raytune_m2f.training.reports import Report, TrialContext
from raytune_m2f.training.trial_dir import only_process, pull_trial, push_trial, refuse_second, require_own
from raytune_m2f.training.worker import train_trial

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
) -> Report:
    """Train, and return the last report.

    Args:
        output: the run's directory, or its address on a store (s3://, gs://).
        workers: Ray Train workers; None with no `address` trains in this process, where a debugger works.
        gpus_per_worker: None takes one each if there are as many.
        address: of a Ray cluster.
        resume: go on from the newest checkpoint in `output`, which may otherwise have none.
        progress: told how many iterations are done, of how many.

    Raises:
        ModelError: MODEL.WEIGHTS names what is not there.
        InputError: `output` has checkpoints and `resume` is False, or the other way round; it holds a file of the
            user's that would be written over; or another process trains there.
    """
    if not str(output).strip():
        raise InputError("--output is empty: give a directory.")
    mirror = Mirror.at(str(output)) if is_address(output) else None
    folder = mirror.folder if mirror else Path(output)
    started = bool(newest_first(folder / "checkpoints"))
    if mirror is not None:
        started = any("/iter_" in name for name in mirror.names("checkpoints"))
    if started and not resume:
        raise InputError(f"--output {output} holds a training run: go on with it by --resume, or give a new directory.")
    if resume and not started:
        raise InputError(f"--resume: {output} has no checkpoint to go on from.")
    if not resume:
        require_own(folder, "--output")
    if not resume and address is None:  # a cluster's files need not be here
        check_source(config.MODEL.WEIGHTS)
    if workers is None and address is None:
        return _train_here(config, folder, gpus_per_worker, mirror, progress)
    if mirror is None:
        refuse_second(folder)  # before Ray is started; its workers then take the lock
    return _train_on_ray(config, folder, workers or 1, gpus_per_worker, address, mirror, progress)


def _train_here(
    config: Config, folder: Path, gpus_per_worker: float | None, mirror: Mirror | None, progress: Progress
) -> Report:
    device = torch.device("cuda" if torch.cuda.is_available() and gpus_per_worker != 0 else "cpu")
    context = TrialContext(folder, device=device, metric=config.metric, progress=progress)
    if mirror is None:
        with only_process(folder, patient=False), _log_file(folder):
            return train_trial(config, context)
    store = mirror

    def push(report: Report) -> bool:
        store.sync()
        return False

    store.pull("log.txt")
    pull_trial(store)
    try:
        with _log_file(folder):
            return train_trial(config, replace(context, report=push, mirror=store))
    finally:
        push_trial(store)


def _train_on_ray(
    config: Config,
    output: Path,
    workers: int,
    gpus_per_worker: float | None,
    address: str | None,
    mirror: Mirror | None,
    progress: Progress,
) -> Report:
    import ray  # only where it is asked for

    from raytune_m2f.launch.ray_train import train_on_ray
    from raytune_m2f.launch.session import ray_session

    def tell(report: Report) -> bool:
        log.info("iteration %d: %s %.2f", report["iteration"], config.metric, report[config.metric])
        return False

    with ExitStack() as stack:
        with still(log, "starting Ray"):
            stack.enter_context(ray_session(address))
        cpus, gpus = (ray.cluster_resources().get(kind, 0) for kind in ("CPU", "GPU"))
        if gpus_per_worker is None:
            gpus_per_worker = 1.0 if gpus >= workers else 0.0
        if cpus < workers or gpus < workers * gpus_per_worker:
            raise InputError(
                f"--workers {workers} need {workers} CPUs and {workers * gpus_per_worker:g} GPUs; the cluster has "
                f"{cpus:g} and {gpus:g}. Ask for fewer workers, or for a larger cluster."
            )
        log_file = mirror.address_of("log.txt") if mirror else output / "log.txt"
        log.info("%d workers, %g GPUs each; their log is %s", workers, gpus_per_worker, log_file)
        return train_on_ray(
            config,
            output,
            workers=workers,
            gpus_per_worker=gpus_per_worker,
            on_report=tell,
            metric=config.metric,
            mirror=mirror,
            progress=progress,
        )


@contextmanager
def _log_file(output: Path) -> Iterator[None]:
    """Add the package's log to `output`/log.txt."""
    output.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(output / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    package = logging.getLogger("raytune_m2f")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
