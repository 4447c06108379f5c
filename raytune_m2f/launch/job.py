"""What a trial trains with, and the one call of `train_trial`, by `trial.py` and each worker of `workers.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from raytune_m2f.config import Config
from raytune_m2f.launch.place import Place
from raytune_m2f.training.objective import Constraint, Objective
from raytune_m2f.training.reports import Report, TrialContext
from raytune_m2f.training.trial_dir import CHECKPOINTS

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

    def train(self, place: Place, context: TrialContext, tell: Callable[[Report], bool]) -> Any:
        """Train at a place that this process holds, and return the last report.

        Args:
            context: rank, device and listeners of this process; the rest is filled in here.
            tell: called with each report, once it is on the store; True ends the training.
        """

        def report(metrics: Report) -> bool:
            place.folder.sync()  # a driver that is killed now finds the report there
            return tell(metrics)

        saved = partial(place.folder.sync, CHECKPOINTS)
        whole = replace(context, report=report, metric=self.metrics[0], keep=self.keep, on_saved=saved)
        whole = replace(whole, address=place.folder.address)
        return (self.function or _train_trial)(self.config, whole)


def _train_trial(config: Config, context: TrialContext) -> Report:
    from raytune_m2f.training.worker import train_trial  # with torch: a driver, which only hands jobs on, needs none

    return train_trial(config, context)
