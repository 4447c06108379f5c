"""What is in a trial's directory, for processes that train there and for those that only look.

config.yaml     what is trained
checkpoints/    see `checkpoint_files.py`
.lock           one training at a time, and which: a worker that outlives its killed driver is waited for
log.txt         rank 0's log and all that it prints (log_1.txt, ... the others')
metrics.jsonl   one JSON object a report; see `reports.py`
failure.json    why the trial ended without a result
.raytune_m2f.progress.json  how far it is (`raytune_m2f.progress`)
stop            asks the trial to end at its next report; a person may create it
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from pathlib import Path
from typing import Any

from raytune_m2f.errors import RaytuneM2FError, TrainingError
from raytune_m2f.storage.files import is_ours, require_free, write_atomically
from raytune_m2f.storage.text import read_object

CONFIG, CHECKPOINTS, LOCK, FAILURE, STOP = "config.yaml", "checkpoints", ".lock", "failure.json", "stop"

log = logging.getLogger(__name__)


def log_name(rank: int) -> str:
    """The file of a rank's log."""
    return f"log_{rank}.txt" if rank else "log.txt"


def require_own(output_dir: Path, what: str) -> None:
    """Refuse a directory for a new run that has files of the user's under the names of a run's.

    Args:
        what: the option that names it.

    Raises:
        InputError: naming the first one.
    """
    if not is_ours(output_dir / CONFIG):
        for name in (CONFIG, "metrics.jsonl", FAILURE, "checkpoints/best.pth", ".ray"):
            require_free(output_dir / name, what)


def write_failure(output_dir: Path, error: BaseException) -> None:
    """Write failure.json; the trace is left out of our own errors, which say all that is needed."""
    ours = isinstance(error, RaytuneM2FError)
    trace = "" if ours else "".join(traceback.format_exception(error)).rstrip()
    record = {"error_type": type(error).__name__, "cause": str(error) or repr(error), "traceback": trace}
    write_atomically(output_dir / FAILURE, json.dumps(record, indent=2))


def read_failure(output_dir: Path) -> dict[str, Any] | None:
    """Why the trial ended without a result: error_type, cause and traceback; None if it did not, or it is damaged."""
    path = output_dir / FAILURE
    if not path.exists() or not path.stat().st_size:  # empty: a name on a store that was not pulled
        return None
    try:
        found = read_object(path, TrainingError)
    except TrainingError as problem:
        log.warning("%s; the trial is taken as one that did not fail", problem)
        return None
    record = {key: found.get(key, "") for key in ("error_type", "cause", "traceback")}
    if not record["error_type"] or not all(isinstance(text, str) for text in record.values()):
        log.warning("%s is no record of a failure; the trial is taken as one that did not fail", path)
        return None
    return record


def log_tail(output_dir: Path, lines: int = 15) -> list[str]:
    """The last lines of log.txt."""
    try:
        with (output_dir / "log.txt").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []


def add_to_log(output_dir: Path, text: str) -> Path:
    """Add to log.txt for a process that has died; returns the file."""
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "log.txt"
    with path.open("a", encoding="utf-8") as file:
        file.write(text.rstrip() + "\n")
    return path
