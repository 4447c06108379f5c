"""Training over several Ray Train workers: the same `train_trial`, once per worker.

    caller          train_on_ray: waits for reports, answers whether to stop
      bridge        an actor between them; dies with the caller
      controller    Ray Train's; starts the workers, and starts them again if one dies
        worker x N  train_trial with its rank; rank 0 reports over the bridge and tells the others the answer

A stop is cooperative: every worker returns from `train_trial`, and Ray Train ends as it would at the end. Killing the
caller leaves the workers' placement group behind, which `worker_group.py` finds and frees.

All workers start again, from the newest checkpoint, when one has died, when a node is lost or announced to go, when one
was out of memory (`training.memory`) and, if their number is a range, when there is room for more or for less. What of
that counts as a failure is said in `bridge.py`.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytune_m2f.config import Config
from raytune_m2f.errors import TrainingError
from raytune_m2f.launch.bridge import Bridge, TellFailures
from raytune_m2f.launch.groups import GROUP, release_workers
from raytune_m2f.launch.nodes import own_node
from raytune_m2f.launch.ray_worker import run_worker
from raytune_m2f.launch.session import FileTorchConfig, is_alone, ray_session
from raytune_m2f.progress import Progress, nobody, read_progress
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.training.reports import Report, TrialContext, never_stop
from raytune_m2f.training.trial_dir import log_tail

MOST_STARTS = 200  # whatever the bridge says; what fails before it is asked would go on for ever
RESIZE_S = 60.0  # how often a range of workers is compared to the room there is
TrialFunction = Callable[[Config, TrialContext], Any]


def train_on_ray(
    config: Config,
    output_dir: Path,
    *,
    workers: int | tuple[int, int],
    gpus_per_worker: float = 0.0,
    cpus_per_worker: int = 1,
    on_report: Callable[[Report], bool] = never_stop,
    max_failures: int = 1,
    metric: str = "segm/AP",
    keep: frozenset[int] = frozenset(),
    address: str | None = None,
    function: TrialFunction | None = None,
    mirror: Mirror | None = None,
    progress: Progress = nobody,
) -> Report:
    """Train with `workers` Ray Train workers and return the last report.

    Args:
        workers: their number, or the fewest and the most: then as many as there is room for.
        on_report: called in this process at each report; True asks all workers to return.
        max_failures: how often the workers are started again after one died; they go on from their checkpoint.
            An error of ours (a NaN loss, a wrong dataset) is not retried. A lost node does not count, nor starting
            again with a smaller micro-batch or another number of workers.
        metric: the report's entry that is to be high; decides which checkpoint is the best.
        keep: iterations whose checkpoints are never deleted.
        address: of a Ray cluster; see `ray_session`.
        function: instead of `train_trial`; tests use this seam.
        mirror: of `output_dir`, if its files are on a store; each worker makes its own.
        progress: told in this process how far rank 0 is, if its files can be seen from here.
    Raises:
        RaytuneM2FError: what a worker raised, as one error; TrainingError with the log's tail if it is not ours.
    """
    output_dir = output_dir.absolute()
    output_dir.mkdir(parents=True, exist_ok=True)
    with ray_session(address):
        # on the caller's node, with which it may end: a bridge that is lost alone would end the trial
        here = NodeAffinitySchedulingStrategy(own_node(), soft=False)
        bridge = ray.remote(Bridge).options(num_cpus=0, scheduling_strategy=here).remote(max_failures)
        loop = {
            "config": config.to_dict(),
            "output_dir": str(output_dir),
            "gpus": gpus_per_worker,
            "threads": cpus_per_worker,
            "bridge": bridge,
            "metric": metric,
            "keep": keep,
            "function": function or _train_trial,
            "store": mirror.address if mirror else None,
        }
        trainer = _trainer(loop, workers, bridge)
        try:
            return _follow(trainer, bridge, on_report, output_dir, mirror, _told_from(output_dir, progress))
        finally:
            if mirror is not None:
                mirror.pull(GROUP)
            release_workers(output_dir)
            shutil.rmtree(output_dir / ".ray", ignore_errors=True)  # Ray Train's own files; we restore from ours


def _resources(cpus: int, gpus: float) -> dict[str, float]:
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without the process that Ray Train starts to free the workers of a controller that was killed.

    It is detached and asks the dashboard: without one it stays for ever and frees nothing. We free them ourselves.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ != "PlacementGroupCleanerCallback"]


def _trainer(loop: dict[str, Any], workers: int | tuple[int, int], bridge: Any) -> TorchTrainer:
    gpus, own = loop["gpus"], str(Path(loop["output_dir"]) / ".ray")
    backend = "nccl" if gpus >= 1 else "gloo"  # NCCL wants a GPU for each worker
    return _Trainer(
        run_worker,
        train_loop_config=loop,
        torch_config=FileTorchConfig(backend=backend, folder=own) if is_alone() else TorchConfig(backend=backend),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            elastic_resize_monitor_interval_s=RESIZE_S,
            use_gpu=gpus > 0,
            resources_per_worker=_resources(loop["threads"], gpus),
        ),
        run_config=ray.train.RunConfig(
            name="train",
            storage_path=own,
            failure_config=ray.train.FailureConfig(max_failures=MOST_STARTS),
            callbacks=[TellFailures(bridge)],
        ),
    )


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
    tell: Callable[[], None] = lambda: None,
) -> Report:
    fit = _Fit(trainer)
    fit.start()
    last: Report | None = None
    refusal: Exception | None = None
    while True:
        ended = not fit.is_alive()
        report = ray.get(bridge.next_report.remote(0.1 if ended else 0.5))
        tell()
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


def _told_from(output_dir: Path, progress: Progress) -> Callable[[], None]:
    """What hands on what rank 0 has said since, and nothing that was said before it began."""
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


def _train_trial(config: Config, context: TrialContext) -> Any:
    from raytune_m2f.training.worker import train_trial  # imported by the worker, not by the caller

    return train_trial(config, context)
