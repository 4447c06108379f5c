"""Out of memory: the micro-batch is halved; global batch, learning rate and sampling stay.

The halved micro-batch is noted in the trial's directory, for a restart and for the other workers: one that is out of
memory cannot tell them, for they wait for its gradients. The note only ever lowers SOLVER.MICRO_BATCH.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from raytune_m2f.errors import OutOfMemoryError, TrainingError
from raytune_m2f.files import write_atomically

NOTE = ".micro_batch"
ADVICE = (
    "Lower INPUT.IMAGE_SIZE, MODEL.MASK_FORMER.NUM_OBJECT_QUERIES or MODEL.MASK_FORMER.TRAIN_NUM_POINTS, take a "
    "smaller backbone, enable SOLVER.AMP on a GPU, or use a machine with more memory."
)
_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")


class StartAgain(Exception):  # noqa: N818  # not an error: all workers start again, with the micro-batch that was noted
    """A worker of several was out of memory and has noted a smaller micro-batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is what was missing, on a GPU or on the CPU, whose allocator raises a RuntimeError."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


@contextmanager
def explained(what: str, advice: str = ADVICE) -> Iterator[None]:
    """Raise what is out of memory as OutOfMemoryError: `what` was being done, and `advice` helps."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory {what}: {first_line(error)}. {advice}") from error


def first_line(error: BaseException) -> str:
    """The allocator's first sentences; it goes on about its settings."""
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def noted_micro_batch(output_dir: Path) -> int | None:
    """The micro-batch that has been found to fit, None if none was too large.

    Raises:
        TrainingError: the note is not a number above 0.
    """
    note = output_dir / NOTE
    if not note.exists():
        return None
    text = note.read_bytes()[:40].decode("utf-8", "replace").strip()
    if not re.fullmatch(r"[1-9]\d{0,8}", text, flags=re.ASCII):
        raise TrainingError(f"{note} holds {text!r}, not a micro-batch [images]: delete it.")
    return int(text)


def note_micro_batch(output_dir: Path, micro_batch: int) -> None:
    """Note the micro-batch for this trial from now on; a reader sees the old note or the new one.

    Raises:
        TrainingError: it cannot be written.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(output_dir / NOTE, f"{micro_batch}\n")
    except OSError as error:
        raise TrainingError(f"out of memory, and {output_dir / NOTE} cannot be written: {error}.") from error
