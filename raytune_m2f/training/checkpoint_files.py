"""The files of a run's checkpoints: their names, and which of them stay.

best.pth            the weights of the best report
iter_0000040.pth    all that it takes to resume from iteration 40
rung_0000040.pth    the same, kept for another trial to resume from

What is in them is said in `checkpoint.py`; the names need no torch, so that `status` does not import it.
"""

from __future__ import annotations

import re
from pathlib import Path

from raytune_m2f.storage.files import link

KEPT = 2
BEST = "best.pth"
_OURS = re.compile(r"(?:.*/)?iter_\d{7,}\.pth")


def keep_newest(folder: Path, keep: frozenset[int] = frozenset()) -> None:
    """Of a run's checkpoints keep the newest two; those of the iterations `keep` stay as `rung_<iteration>.pth`."""
    checkpoints = newest_first(folder)
    if checkpoints and (iteration := int(checkpoints[0].stem.removeprefix("iter_"))) in keep:
        link(checkpoints[0], rung_file(folder, iteration))
    for old in checkpoints[KEPT:]:
        old.unlink(missing_ok=True)


def rung_file(folder: Path, iteration: int) -> Path:
    """The checkpoint of an iteration that another trial may resume from."""
    return folder / f"rung_{iteration:07d}.pth"


def iteration_file(folder: Path, iteration: int) -> Path:
    """Where the checkpoint of an iteration lies."""
    return folder / f"iter_{iteration:07d}.pth"


def is_iteration(name: str) -> bool:
    """Whether a file is a checkpoint to resume from; other tools' files (iter_2000.pth) are none of ours."""
    return _OURS.fullmatch(name) is not None


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run, by iteration."""
    return sorted((path for path in folder.glob("iter_*.pth") if is_iteration(path.name)), reverse=True)
