"""Checkpoints: written to a temporary name, then renamed; restored from the newest that can be read.

They are written while training continues. A kill in that time costs the iterations since the checkpoint before, which
are done again and give the same, though their report may be known by then.

There is no sampler and no random state in a checkpoint: everything random is a function of SEED and the iteration
(see `raytune_m2f.data.dataset` and `model.points`).
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from raytune_m2f.errors import CheckpointError
from raytune_m2f.learner.weight_files import in_short, not_weights
from raytune_m2f.storage.files import replacing
from raytune_m2f.training.checkpoint_files import BEST as BEST
from raytune_m2f.training.checkpoint_files import iteration_file as iteration_file
from raytune_m2f.training.checkpoint_files import keep_newest as keep_newest
from raytune_m2f.training.checkpoint_files import newest_first as newest_first
from raytune_m2f.training.checkpoint_files import rung_file as rung_file

log = logging.getLogger(__name__)

Checkpoint = dict[str, Any]
PORTABLE = ("model", "config", "categories", "report")
"""What the model needs to be used elsewhere: all that is in best.pth."""


class CheckpointWriter:
    """Writes the checkpoints of a run on a thread of its own, one at a time: a second waits for the first.

    What goes wrong there is raised at the next call, or at the end of the `with` block, which waits for the thread.

    Args:
        folder: of the checkpoints.
        keep: iterations whose checkpoints stay; see `keep_newest`.
        on_saved: called on that thread when a checkpoint is on disk, and an old one is not any more.
    """

    def __init__(
        self, folder: Path, keep: frozenset[int] = frozenset(), on_saved: Callable[[], None] = lambda: None
    ) -> None:
        self._folder, self._keep, self._on_saved = folder, keep, on_saved
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def write(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Start to write this iteration's checkpoint, and before it, if it is the best, `best.pth`.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.wait()
        self._pending = self._thread.submit(self._write, snapshot(checkpoint), best)

    def wait(self) -> None:
        """Return when all is on disk, and on the store if there is one.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, checkpoint: Checkpoint, best: bool) -> None:
        if best:
            save({key: checkpoint[key] for key in PORTABLE}, self._folder / BEST)
        save_iteration(checkpoint, self._folder, self._keep)
        self._on_saved()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except CheckpointError as failure:
            if error is None:
                raise
            log.error("%s", failure)  # beside what has ended the run, which is raised
        finally:
            self._thread.shutdown()


def snapshot(value: Any) -> Any:
    """A copy on the CPU that a further step does not change."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(part) for part in value)
    return value


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that, whatever happens, `path` is either the old file or the whole new one.

    Raises:
        CheckpointError: it cannot be written (a full disk, say); nothing half-written is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {error}. Free space there; the earlier checkpoints are intact "
            "and the run can be resumed."
        ) from error


def save_iteration(checkpoint: Checkpoint, folder: Path, keep: frozenset[int] = frozenset()) -> None:
    """Write `iter_<iteration>.pth`; see `keep_newest`."""
    save(checkpoint, iteration_file(folder, checkpoint["iteration"]))
    keep_newest(folder, keep)


def load(path: Path, *, mapped: bool = False) -> Checkpoint:
    """Read a checkpoint; tensors and plain values only, nothing in it is executed.

    Args:
        mapped: leave the tensors in the file until they are used.
    Raises:
        CheckpointError: it is missing, cut short, changed, or holds anything else.
    """
    try:
        if other := not_weights(path):
            raise OSError(f"it is {other}")
        if not mapped:
            _check_sums(path)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # zipfile, pickle, EOF and OS errors, whatever torch meets first
        raise CheckpointError(f"cannot read the checkpoint {path}: {in_short(error)}") from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise CheckpointError(f"{path} is no checkpoint of raytune_m2f: it has no 'model'")
    return checkpoint


def _check_sums(path: Path) -> None:
    """Compare the sums that torch.save writes, which torch.load does not read."""
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            raise OSError(f"its part {changed} has changed since it was written")


def best_report(folder: Path) -> dict[str, Any] | None:
    """The report of `best.pth`; None if there is none that can be read."""
    path = folder / BEST
    if not path.exists():
        return None
    try:
        report: dict[str, Any] | None = load(path, mapped=True).get("report")
    except CheckpointError as error:
        log.warning("%s; the next evaluation writes a new one", error)
        return None
    return report


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; None if there is none at all."""
    for path in newest_first(folder):
        try:
            return load(path)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
    return None
