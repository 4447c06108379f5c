"""Training over several Ray Train workers: the same `train_trial`, once per worker.

    caller          train_on_workers: waits for reports, answers whether to stop
      bridge        an actor between them; dies with the caller
      controller    Ray Train's; starts the workers, and starts them again if one dies
        worker x N  train_trial with its rank; rank 0 reports over the bridge and tells the others the answer

A stop is cooperative: every worker returns from `train_trial`, and Ray Train ends as it would at the end. Killing the
caller leaves the workers' placement group behind, which `groups.py` finds and frees.

All workers start again, from the newest checkpoint, when one has died, when a node is lost or announced to go, when one
was out of memory (`training/memory.py`) and, if their number is a range, when there is room for more or for less. What
of that counts as a failure is said in `bridge.py`.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group, _TorchBackend
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytune_m2f.errors import RaytuneM2FError, TrainingError
from raytune_m2f.launch.bridge import Bridge, TellFailures
from raytune_m2f.launch.groups import GROUP, own_group, release_workers
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.local_session import is_alone
from raytune_m2f.launch.nodes import Announcement, is_lost, own_node
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.session import ray_session
from raytune_m2f.progress import Progress, ProgressFile, nobody, read_progress
from raytune_m2f.training.memory import StartAgain, share_gpu
from raytune_m2f.training.reports import Report, never_stop
from raytune_m2f.training.step import all_gather
from raytune_m2f.training.trial_dir import log_tail

MOST_STARTS = 200  # in all: a failure before the bridge is asked would be repeated for ever
RESIZE_S = 60.0  # how often a range of workers is compared to the room there is


# The caller


def train_on_workers(
    job: TrialJob,
    place: Place,
    tell: Callable[[Report], bool] = never_stop,
    progress: Progress = nobody,
) -> Report:
    """Train with `job.workers` Ray Train workers and return the last report.

    The workers are started again `job.crash_retries` times after one died; an error of ours (a NaN loss, a wrong
    dataset) is not retried. A lost node does not count, nor starting again with a smaller micro-batch or another number
    of workers.

    Args:
        tell: called in this process at each report; True asks all workers to return.
        progress: told in this process how far rank 0 is, if its files can be seen from here.

    Raises:
        RaytuneM2FError: what a worker raised, as one error; TrainingError with the log's tail if it is not ours.
    """
    place.path.mkdir(parents=True, exist_ok=True)
    own = place.path / ".ray"  # Ray Train's own files; we restore from ours
    with ray_session():
        # on the caller's node, with which it may end: a bridge that is lost alone would end the trial
        here = NodeAffinitySchedulingStrategy(own_node(), soft=False)
        bridge = ray.remote(Bridge).options(num_cpus=0, scheduling_strategy=here).remote(job.crash_retries)
        fit = _Fit(_trainer(Worker(job, place.folder.address, bridge), own))
        try:
            last = _answer_reports(bridge, fit, tell, relay(place.path, progress))
            place.folder.pull("log.txt")
            _raise_error(ray.get(bridge.error.remote()), fit.error, place.path)
        finally:
            place.folder.pull(GROUP)
            release_workers(place.path)
            shutil.rmtree(own, ignore_errors=True)
    if last is None:
        raise TrainingError(f"the training in {place.folder.address} ended without a report")
    return last


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without the process that Ray Train starts to free the workers of a controller that was killed.

    It is detached and asks the dashboard: without one it stays for ever and frees nothing. We free them ourselves.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _trainer(worker: Worker, own: Path) -> TorchTrainer:
    job = worker.job
    fewest, most = job.workers
    backend = "nccl" if job.gpus_per_worker >= 1 else "gloo"  # NCCL wants a GPU for each worker
    return _Trainer(
        worker,
        torch_config=FileTorchConfig(backend=backend, folder=str(own)) if is_alone() else TorchConfig(backend=backend),
        scaling_config=ray.train.ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            elastic_resize_monitor_interval_s=RESIZE_S,
            use_gpu=job.gpus_per_worker > 0,
            resources_per_worker=job.bundle,
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=str(own),
            failure_config=ray.train.FailureConfig(max_failures=MOST_STARTS),
            callbacks=[TellFailures(worker.bridge)],
        ),
    )


class _Fit(threading.Thread):
    """`trainer.fit()`, which blocks, beside the loop that answers reports."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error


def _answer_reports(
    bridge: Any, fit: _Fit, tell: Callable[[Report], bool], relay_progress: Callable[[], None]
) -> Report | None:
    """Answer each report until the workers have ended; returns the last. Raises what `tell` raised."""
    last: Report | None = None
    refusal: Exception | None = None
    while True:
        ended = not fit.is_alive()
        report = ray.get(bridge.next_report.remote(0.1 if ended else 0.5))
        relay_progress()
        if report is None and ended:
            break
        if report is None:
            continue
        last = report
        stop = refusal is not None
        try:
            stop = stop or tell(report)
        except Exception as error:  # raised once the workers have returned
            refusal, stop = error, True
        ray.get(bridge.answer.remote(stop))
    if refusal is not None:
        raise refusal
    return last


def relay(output_dir: Path, progress: Progress) -> Callable[[], None]:
    """A function that tells `progress` what rank 0 has written since, and nothing from before."""
    latest = time.time()

    def tell() -> None:
        nonlocal latest
        told = read_progress(output_dir) if progress is not nobody else None
        if told is not None and told.at > latest:
            latest = told.at
            progress(told.done, told.total, **told.facts)

    return tell


def _raise_error(noted: tuple[Exception | None, str] | None, fit: BaseException | None, output_dir: Path) -> None:
    if noted is not None and noted[0] is not None:
        raise noted[0]
    if noted is None and fit is None:
        return
    cause = noted[1] if noted else str(fit)
    tail = "\n".join(log_tail(output_dir))
    raise TrainingError(f"a worker failed: {cause}\nlast lines of {output_dir / 'log.txt'}:\n{tail}") from fit


# Each worker


@dataclass(frozen=True)
class Worker:
    """`train_trial` with the rank of the process in which it is called, and its reports over the bridge.

    Attributes:
        address: path or address of the trial's directory.
        bridge: the actor, a `Bridge`.
    """

    job: TrialJob
    address: str
    bridge: Any

    def __call__(self) -> None:
        job, rank = self.job, ray.train.get_context().get_world_rank()
        device = ray.train.torch.get_device() if job.gpus_per_worker else torch.device("cpu")
        place = Place.at(self.address)
        if rank == 0 and (group := own_group()) is not None:
            place.note(GROUP, group)
        torch.set_num_threads(job.cpus_per_worker)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL gathers what is no tensor
        share_gpu(device, job.gpus_per_worker)
        with place.held(rank):
            nodes = [node for [node] in all_gather([own_node()])]
            # rank 0's answer also says that no earlier rank 0 still writes: all read the same checkpoint
            if _broadcast(rank != 0 or self._may_begin(nodes), device):
                self._train(place, rank, device, nodes)

    def _may_begin(self, nodes: list[str]) -> bool:
        lost = any(is_lost(node) for node in dict.fromkeys(ray.get(self.bridge.failed_on.remote())))
        return bool(ray.get(self.bridge.begin.remote(nodes, lost)))

    def _train(self, place: Place, rank: int, device: torch.device, nodes: list[str]) -> None:
        def tell(report: Report) -> bool:
            return _broadcast(rank == 0 and ray.get(self.bridge.report.remote(report)), device)

        try:
            place.pull()
            with Announcement(nodes if rank == 0 else []) as announced:  # rank 0 saves, whichever node goes
                self.job.train(
                    place,
                    tell,
                    device=device,
                    rank=rank,
                    world_size=len(nodes),
                    save_now=announced.due,
                    progress=ProgressFile(place.path),
                )
        except Exception as error:
            traceback.print_exc()  # to this rank's log
            place.push()
            ours = error if isinstance(error, RaytuneM2FError) else None
            text = f"rank {rank}, process {os.getpid()}: {type(error).__name__}: {error}"
            ray.get(self.bridge.note_error.remote(ours, text, isinstance(error, StartAgain)))
            raise
        place.push()


def _broadcast(flag: bool, device: torch.device) -> bool:
    """Rank 0's flag, on every worker."""
    tensor = torch.tensor([int(flag)], device=device)
    dist.broadcast(tensor, src=0)
    return bool(tensor.item())


# How they find each other on one machine


@dataclass
class FileTorchConfig(TorchConfig):  # type: ignore[misc]
    """Torch's process group, joined by a file: torch's own server would listen to the network.

    Attributes:
        folder: of the file; on a file system that all workers see.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_FileBackend]:
        return _FileBackend


class _FileBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: FileTorchConfig) -> None:
        """As the parent's, with another address."""
        folder = Path(backend_config.folder)
        folder.mkdir(parents=True, exist_ok=True)
        address = f"file://{folder / f'rendezvous_{uuid.uuid4().hex}'}"  # one for each start of the workers
        worker_group.execute(_set_torch_distributed_env_vars)
        workers = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=address,
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(workers)
