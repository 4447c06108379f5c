"""Training over several Ray Train workers: the same `train_trial`, once per worker.

    caller          train_on_ray: waits for reports, answers whether to stop
      bridge        an actor between them; dies with the caller
      controller    Ray Train's; starts the workers, and starts them again if one dies
        worker x N  train_trial with its rank; rank 0 reports over the bridge and tells the others the answer

A stop is cooperative: every worker returns from `train_trial`, and Ray Train ends as it would at the end. Killing the
caller leaves the workers' placement group behind (ray#58515, #62753), so its id is noted in the directory and
`release_workers` frees it.

A worker that is out of memory makes all start again with a smaller micro-batch (`training.memory`). The bridge counts
such starts apart from those after a death, for Ray Train knows one number of failures only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.placement_group import PlacementGroup, get_current_placement_group, remove_placement_group

from raytune_m2f.config import Config
from raytune_m2f.errors import RaytuneM2FError, TrainingError
from raytune_m2f.mirror import Mirror
from raytune_m2f.training.context import Report, TrialContext, never_stop
from raytune_m2f.training.memory import StartAgain
from raytune_m2f.training.ray_session import ray_session
from raytune_m2f.training.trial_dir import log_tail, occupied, pull_trial, push_trial

GROUP = ".placement_group"
TrialFunction = Callable[[Config, TrialContext], Any]


class _Bridge:
    """An actor that hands reports of rank 0 to the caller and the caller's answers back."""

    def __init__(self, max_failures: int = 0) -> None:
        self._attempts_left = max_failures + 1
        self._again = False
        self._reports: asyncio.Queue[tuple[Report, asyncio.Future[bool]]] = asyncio.Queue()
        self._asked: asyncio.Future[bool] | None = None
        self._error: tuple[Exception | None, str] | None = None

    async def report(self, report: Report) -> bool:
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        await self._reports.put((report, answer))
        return await answer

    async def next_report(self, timeout: float) -> Report | None:
        try:
            report, self._asked = await asyncio.wait_for(self._reports.get(), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            return None
        return report

    async def answer(self, stop: bool) -> None:
        """Answer the report that `next_report` gave."""
        assert self._asked is not None
        self._asked.set_result(stop)

    async def begin(self) -> bool:
        """Called by rank 0 as the workers start (again); False if they need not: they would fail again."""
        if self._error is not None and self._error[0] is not None:
            return False
        if not self._again:
            self._attempts_left -= 1
        if self._attempts_left < 0:
            self._error = self._error or (None, "its process died")
            return False
        self._error, self._again = None, False
        return True

    async def note_error(self, ours: Exception | None, text: str, again: bool = False) -> None:
        """The first error is the cause; what other workers then say of lost connections follows from it.

        Args:
            again: not an error: the workers have to start again.
        """
        if self._error is None:
            self._error, self._again = (ours, text), again

    async def error(self) -> tuple[Exception | None, str] | None:
        return self._error


def train_on_ray(
    config: Config,
    output_dir: Path,
    *,
    workers: int,
    gpus_per_worker: float = 0.0,
    cpus_per_worker: int = 1,
    on_report: Callable[[Report], bool] = never_stop,
    max_failures: int = 1,
    metric: str = "segm/AP",
    keep: frozenset[int] = frozenset(),
    address: str | None = None,
    function: TrialFunction | None = None,
    mirror: Mirror | None = None,
) -> Report:
    """Train with `workers` Ray Train workers and return the last report.

    Args:
        on_report: called in this process at each report; True asks all workers to return.
        max_failures: how often the workers are started again after one died; they go on from their checkpoint.
            An error of ours (a NaN loss, a wrong dataset) is not retried. Starting again with a smaller micro-batch
            does not count.
        metric: the report's entry that is to be high; decides which checkpoint is the best.
        keep: iterations whose checkpoints are never deleted.
        address: of a Ray cluster; see `ray_session`.
        function: instead of `train_trial`; tests use this seam.
        mirror: of `output_dir`, if its files are on a store; each worker makes its own.
    Raises:
        RaytuneM2FError: what a worker raised, as one error; TrainingError with the log's tail if it is not ours.
    """
    output_dir = output_dir.absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    with ray_session(address):
        bridge = ray.remote(_Bridge).options(num_cpus=0).remote(max_failures)
        loop = {
            "config": config.to_dict(),
            "output_dir": str(output_dir),
            "gpu": gpus_per_worker > 0,
            "threads": cpus_per_worker,
            "bridge": bridge,
            "metric": metric,
            "keep": keep,
            "function": function or _train_trial,
            "store": mirror.address if mirror else None,
        }
        trainer = TorchTrainer(
            _worker,
            train_loop_config=loop,
            torch_config=TorchConfig(backend="nccl" if gpus_per_worker else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=gpus_per_worker > 0,
                resources_per_worker=_resources(cpus_per_worker, gpus_per_worker),
            ),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=str(output_dir / ".ray"),
                failure_config=ray.train.FailureConfig(max_failures=max_failures + _halvings(config, workers)),
            ),
        )
        try:
            return _follow(trainer, bridge, on_report, output_dir, mirror)
        finally:
            if mirror is not None:
                mirror.pull(GROUP)
            release_workers(output_dir)
            shutil.rmtree(output_dir / ".ray", ignore_errors=True)  # Ray Train's own files; we restore from ours


def release_workers(output_dir: Path) -> None:
    """Free the placement group of workers whose caller has gone; nothing happens if there is none."""
    note = output_dir / GROUP
    if not note.exists():
        return
    group = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(note.read_text())))
    remove_placement_group(group)
    note.unlink(missing_ok=True)


def _resources(cpus: int, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


def _halvings(config: Config, workers: int) -> int:
    """How often the micro-batch can be halved, at most."""
    share = -(-config.SOLVER.IMS_PER_BATCH // workers)
    return share.bit_length() - 1


class _Fit(threading.Thread):
    """`trainer.fit()`, which blocks, beside the loop that answers reports."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error


def _follow(
    trainer: TorchTrainer,
    bridge: Any,
    on_report: Callable[[Report], bool],
    output_dir: Path,
    mirror: Mirror | None = None,
) -> Report:
    fit = _Fit(trainer)
    fit.start()
    last: Report | None = None
    refusal: Exception | None = None
    while True:
        ended = not fit.is_alive()
        report = ray.get(bridge.next_report.remote(0.1 if ended else 0.5))
        if report is None:
            if ended:
                break
            continue
        last = report
        stop = refusal is not None
        try:
            stop = stop or on_report(report)
        except Exception as error:  # let the workers return before it goes on its way
            refusal, stop = error, True
        ray.get(bridge.answer.remote(stop))
    if refusal is not None:
        raise refusal
    if mirror is not None:
        mirror.pull("log.txt")
    _raise_error(ray.get(bridge.error.remote()), fit.error, output_dir)
    if last is None:
        raise TrainingError(f"the training in {output_dir} ended without a report")
    return last


def _raise_error(noted: tuple[Exception | None, str] | None, fit: BaseException | None, output_dir: Path) -> None:
    if noted is not None and noted[0] is not None:
        raise noted[0]
    if noted is None and fit is None:
        return
    cause = noted[1] if noted else str(fit)
    tail = "\n".join(log_tail(output_dir))
    raise TrainingError(f"a worker failed: {cause}\nlast lines of {output_dir / 'log.txt'}:\n{tail}") from fit


def _worker(loop: dict[str, Any]) -> None:
    """One worker: `train_trial` with this worker's rank."""
    ranks = ray.train.get_context()
    rank, bridge, output_dir = ranks.get_world_rank(), loop["bridge"], Path(loop["output_dir"])
    device = ray.train.torch.get_device() if loop["gpu"] else torch.device("cpu")
    mirror = Mirror.at(loop["store"]) if loop["store"] else None
    output_dir = mirror.folder if mirror else output_dir
    if rank == 0:
        group = get_current_placement_group()
        if group is not None:
            (output_dir / GROUP).write_text(group.id.hex())
            if mirror:
                mirror.push(GROUP)
    torch.set_num_threads(loop["threads"])

    def report(metrics: Report) -> bool:
        if mirror:
            mirror.sync()
        return _agree(rank == 0 and ray.get(bridge.report.remote(metrics)), device)

    size, metric, keep = ranks.get_world_size(), loop["metric"], loop["keep"]
    context = TrialContext(output_dir, rank, size, device, report, metric, keep, mirror)
    with occupied(output_dir, rank, mirror=mirror):
        # rank 0's word also says that no earlier rank 0 still writes: all read the same checkpoint
        if not _agree(rank != 0 or ray.get(bridge.begin.remote()), device):
            return
        try:
            if mirror:
                pull_trial(mirror)
            loop["function"](Config.from_dict(loop["config"], source="config"), context)
        except Exception as error:
            traceback.print_exc()  # to this rank's log
            ours = error if isinstance(error, RaytuneM2FError) else None
            if mirror:
                push_trial(mirror)
            text = f"rank {rank}, process {os.getpid()}: {type(error).__name__}: {error}"
            ray.get(bridge.note_error.remote(ours, text, isinstance(error, StartAgain)))
            raise
        if mirror:
            push_trial(mirror)


def _agree(flag: bool, device: torch.device) -> bool:
    """Rank 0's flag, on every worker."""
    tensor = torch.tensor([int(flag)], device=device)
    dist.broadcast(tensor, src=0)
    return bool(tensor.item())


def _train_trial(config: Config, context: TrialContext) -> Any:
    from raytune_m2f.training.worker import train_trial  # imported by the worker, not by the caller

    return train_trial(config, context)
