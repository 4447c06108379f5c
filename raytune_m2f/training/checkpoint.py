"""Checkpoints: written to a temporary name, then renamed; restored from the newest that can be read.

There is no sampler and no random state in a checkpoint: everything random is a function of SEED and the iteration
(see `raytune_m2f.data.sampler` and `model.points`).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import torch

from raytune_m2f.errors import CheckpointError

log = logging.getLogger(__name__)

Checkpoint = dict[str, Any]
KEPT = 2
BEST = "best.pth"


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that, whatever happens, `path` is either the old file or the whole new one.

    Raises:
        CheckpointError: it cannot be written (a full disk, say); nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write the checkpoint {path}: {error}. Free space there; the earlier checkpoints are intact "
            "and the run can be resumed."
        ) from error


def save_iteration(checkpoint: Checkpoint, folder: Path) -> None:
    """Write `iter_<iteration>.pth`, and keep the newest two only."""
    save(checkpoint, iteration_file(folder, checkpoint["iteration"]))
    for old in newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)


def iteration_file(folder: Path, iteration: int) -> Path:
    """The checkpoint of an iteration."""
    return folder / f"iter_{iteration:07d}.pth"


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run, by iteration."""
    return sorted(folder.glob("iter_*.pth"), reverse=True)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; tensors and plain values only, nothing in it is executed.

    Raises:
        CheckpointError: it is missing, cut short, or holds anything else.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle, EOF and OS errors, whatever torch meets first
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(checkpoint, dict) or "model" not in checkpoint:
        raise CheckpointError(f"{path} is no checkpoint of raytune_m2f: it has no 'model'")
    return checkpoint


def load_newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; None if there is none at all."""
    for path in newest_first(folder):
        try:
            return load(path)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
    return None
