"""Where a trial runs: the only thing that differs between a plain process, a Ray Train worker and a Ray Tune trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_m2f.mirror import Mirror
from raytune_m2f.progress_line import Progress, nobody

if TYPE_CHECKING:
    import torch

Report = dict[str, Any]


def never_stop(report: Report) -> bool:
    """The `report` of a run that nobody listens to."""
    return False


def never_due() -> bool:
    """The `save_now` of a run whose node stays."""
    return False


def _cpu() -> torch.device:
    import torch  # here: the processes that only hand reports on need none of its 400 MB

    return torch.device("cpu")


@dataclass(frozen=True)
class TrialContext:
    """What `train_trial` knows of its surroundings.

    Attributes:
        output_dir: the trial's directory; config.yaml, metrics.jsonl and checkpoints/ live there; all workers see it.
        rank, world_size: this worker among the trial's; `torch.distributed` is initialised if there are several.
        device: where the network runs.
        report: called on every worker after each evaluation with the same report; True asks the trial to stop.
        metric: what "best" means: an `Objective`, in the simplest case the report's entry that is to be high.
        keep: iterations whose checkpoints are never deleted; of the others only the newest two are left.
        save_now: asked after each iteration; True asks for a checkpoint, for the node is about to go.
        progress: told by rank 0 after each step how many iterations are done, of how many, with loss and last score.
        mirror: of the directory, if its files are on a store; the directory is then this worker's own.
    """

    output_dir: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=_cpu)
    report: Callable[[Report], bool] = never_stop
    metric: str = "segm/AP"
    keep: frozenset[int] = frozenset()
    save_now: Callable[[], bool] = never_due
    progress: Progress = nobody
    mirror: Mirror | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0
