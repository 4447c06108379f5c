"""Reports: where a trial tells them (`TrialContext`), and where they are kept (metrics.jsonl, a JSON object a line)."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_m2f.errors import CheckpointError
from raytune_m2f.progress import Progress, nobody
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.storage.text import parse_json
from raytune_m2f.training.objective import Objective

if TYPE_CHECKING:
    import torch

Report = dict[str, Any]
METRICS = "metrics.jsonl"
SEGM_AP = Objective.parse("segm/AP")

log = logging.getLogger(__name__)


def never_stop(report: Report) -> bool:
    """The `report` of a run that nothing stops."""
    return False


def _cpu() -> torch.device:
    import torch  # here: the processes that only hand reports on need none of its 400 MB

    return torch.device("cpu")


@dataclass(frozen=True)
class TrialContext:
    """Where a trial runs: all that differs between a plain process, a Ray Train worker and a Ray Tune trial.

    Attributes:
        output_dir: the trial's directory; config.yaml, metrics.jsonl and checkpoints/ live there; all workers see it.
        address: what the user calls output_dir: its path, or where it is on a store; empty: its path.
        rank, world_size: this worker among the trial's; `torch.distributed` is initialised if there are several.
        device: where the network runs.
        report: called on every worker after each evaluation with the same report; True asks the trial to stop.
        metric: decides which report is the best.
        keep: iterations whose checkpoints are never deleted; of the others only the newest two are left.
        save_now: asked after each iteration; True asks for a checkpoint, for the node is about to go.
        progress: told by rank 0 after each step how many iterations are done, of how many, with loss and last score.
        on_saved: called by rank 0's thread that writes checkpoints, when one is on disk; pushes it to the store.
    """

    output_dir: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=_cpu)
    report: Callable[[Report], bool] = never_stop
    metric: Objective = SEGM_AP
    keep: frozenset[int] = frozenset()
    save_now: Callable[[], bool] = lambda: False
    progress: Progress = nobody
    on_saved: Callable[[], None] = lambda: None
    address: str = ""

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def read_reports(folder: Path) -> list[Report]:
    """All reports of a run in order; what is no report, as a last line that a kill cut short, is left out and named."""
    path = folder / METRICS
    if not path.exists():
        return []
    reports = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            reports.append(_report(line))
        except ValueError as problem:
            log.warning("%s: line %d is no whole report and is left out: %s", path, number, problem)
    return reports


def _report(line: bytes) -> Report:
    """A line as a report. Raises ValueError, saying what is wrong."""
    report = parse_json(line.decode("utf-8"))
    if not isinstance(report, dict):
        raise ValueError(f"got {type(report).__name__}, allowed: an object")
    iteration, images = report.get("iteration"), report.get("images", 0)
    if type(iteration) is not int or iteration < 0 or type(images) is not int:
        raise ValueError(f"got iteration {iteration!r} and images {images!r}, allowed: whole numbers")
    if type(report.get("seconds")) not in (int, float):
        raise ValueError(f"got seconds {report.get('seconds')!r}, allowed: a number")
    if nested := [key for key, value in report.items() if isinstance(value, dict | list)]:
        raise ValueError(f"{nested[0]!r} is neither a number nor a text")
    return report


def append_report(folder: Path, report: Report) -> None:
    """Add a report, in one write, so that a reader never sees half of it. Raises CheckpointError if it cannot."""
    try:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder / METRICS}: {error}. Free space there; the run can be resumed."
        ) from error


def rewind(folder: Path, report: Report | None) -> None:
    """Make the file end with `report`, the one of the checkpoint from which a run is resumed.

    Reports after it are made again; it is added if a kill came between the checkpoint and the file.
    """
    last = -1 if report is None else int(report["iteration"])
    kept = [old for old in read_reports(folder) if int(old["iteration"]) < last]
    lines = [json.dumps(old) for old in (*kept, *([] if report is None else [report]))]
    write_atomically(folder / METRICS, "".join(line + "\n" for line in lines))
