"""What a trial trains with, and the one call of `train_trial` that all three launchers share.

here.py      this process                          `raytune-m2f train`
trial.py     the process of a Ray Tune trial       a study, one worker a trial
workers.py   each of several Ray Train workers     both, with more workers
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from raytune_m2f.config import Config
from raytune_m2f.launch.place import Place
from raytune_m2f.progress import Progress, nobody
from raytune_m2f.training.objective import Constraint, Objective
from raytune_m2f.training.reports import Report, TrialContext, never_due
from raytune_m2f.training.trial_dir import CHECKPOINTS

if TYPE_CHECKING:
    import torch

TrialFunction = Callable[[Config, TrialContext], Any]


def bundle(cpus: int, gpus: float) -> dict[str, float]:
    """Resources in Ray's words."""
    return {"CPU": cpus, **({"GPU": gpus} if gpus else {})}


@dataclass(frozen=True)
class TrialJob:
    """What is trained, how, and with which resources; travels to the processes that train.

    Attributes:
        config: of the training; in a study the trial's values are put into it.
        metrics, constraints: what every report must have; the first metric decides which checkpoint is the best.
        workers: the fewest and the most; of more than one each is a Ray Train worker.
        gpus_per_worker: 0 trains on the CPU.
        crash_retries: how often several workers are started again after one died.
        keep: iterations whose checkpoints are never deleted.
        function: instead of `train_trial`, with its signature; for tests.
    """

    config: Config
    metrics: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()
    workers: tuple[int, int] = (1, 1)
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    crash_retries: int = 1
    keep: frozenset[int] = frozenset()
    function: TrialFunction | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray is asked for each worker."""
        return bundle(self.cpus_per_worker, self.gpus_per_worker)

    def check(self, report: Report) -> None:
        """Raises TrainingError or NonFiniteLossError if a metric or a constraint is missing or not finite."""
        for objective in self.metrics:
            objective.value(report)
        for bound in self.constraints:
            bound.violation(report)

    def train(
        self,
        place: Place,
        tell: Callable[[Report], bool],
        *,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        save_now: Callable[[], bool] = never_due,
        progress: Progress = nobody,
    ) -> Any:
        """Train at a place that this process holds, as one of `world_size` workers.

        Args:
            tell: called with each report, once it is on the store; True ends the training.
            save_now, progress: see `TrialContext`.

        Returns:
            the last report.
        """

        def report(metrics: Report) -> bool:
            place.folder.sync()  # a driver that is killed now finds the report there
            return tell(metrics)

        context = TrialContext(
            place.path,
            rank=rank,
            world_size=world_size,
            device=device,
            report=report,
            metric=self.metrics[0],
            keep=self.keep,
            save_now=save_now,
            progress=progress,
            on_saved=partial(place.folder.sync, CHECKPOINTS),
        )
        return (self.function or _train_trial)(self.config, context)


def _train_trial(config: Config, context: TrialContext) -> Report:
    from raytune_m2f.training.worker import train_trial  # with torch: a driver, which only hands jobs on, needs none

    return train_trial(config, context)
