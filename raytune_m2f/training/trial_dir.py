"""What a process owns in a trial's directory while it trains there: the lock, the log, the reports, the failure.

config.yaml     what is trained
.lock           one training at a time, and who it is: a worker that outlives its killed driver is waited for
log.txt         rank 0's log and all that it prints (log_1.txt, ... the others')
metrics.jsonl   one JSON object a report, written by `train_trial`
failure.json    why the trial ended without a result
.raytune_m2f.progress.json  how far it is, for who follows it (`raytune_m2f.progress`)
stop            somebody asks the trial to end at its next report; a person may create it
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from raytune_m2f.errors import InputError, RaytuneM2FError, TrainingError
from raytune_m2f.storage.files import is_ours, require_free, write_atomically
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.storage.text import read_object

log = logging.getLogger(__name__)

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
LOCK = ".lock"
FAILURE = "failure.json"
STOP = "stop"


def require_own(output_dir: Path, what: str) -> None:
    """Refuse a directory for a new run in which files of a run's names are somebody else's.

    Args:
        what: the option that names it.

    Raises:
        InputError: naming the first one.
    """
    if not is_ours(output_dir / CONFIG):
        for name in (CONFIG, "metrics.jsonl", FAILURE, "checkpoints/best.pth", ".ray"):
            require_free(output_dir / name, what)


def write_failure(output_dir: Path, error: BaseException) -> None:
    """Leave the reason of a failure; it outlives whoever was to be told."""
    # Our own errors say all that is needed; for others the trace is what helps.
    ours = isinstance(error, RaytuneM2FError)
    trace = "" if ours else "".join(traceback.format_exception(error)).rstrip()
    record = {"error_type": type(error).__name__, "cause": str(error) or repr(error), "traceback": trace}
    write_atomically(output_dir / FAILURE, json.dumps(record, indent=2))


def read_failure(output_dir: Path) -> dict[str, Any] | None:
    """Why the trial ended without a result: error_type, cause and traceback; None if it did not, or nobody can say."""
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
    """Write on behalf of a process that could not do it any more; returns the log."""
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "log.txt"
    with path.open("a", encoding="utf-8") as log:
        log.write(text.rstrip() + "\n")
    return path


def pull_trial(mirror: Mirror) -> None:
    """Bring what a trial goes on from: its newest checkpoints, best weights, reports and notes."""
    left = (FAILURE, STOP)
    wanted = [name for name in mirror.names(recursive=True) if not name.startswith("log") and name not in left]
    mirror.pull(*(name for name in wanted if not Path(name).name.startswith("rung_")))


def push_trial(mirror: Mirror) -> None:
    """Bring all that the trial has left to the store, checkpoints first."""
    mirror.sync("checkpoints")
    mirror.sync()


@contextmanager
def occupied(output_dir: Path, rank: int = 0, wait: float = 60.0, mirror: Mirror | None = None) -> Iterator[None]:
    """Be this rank's only process in the directory, with everything it says going to its log file.

    Args:
        mirror: of a directory whose files are on a store; the log there is continued.
    Raises:
        TrainingError: another process still trains here after `wait` seconds.
    """
    suffix = f"_{rank}" if rank else ""
    with only_process(output_dir, rank, wait):
        if mirror is not None:
            mirror.pull(f"log{suffix}.txt")
        with (
            (output_dir / f"log{suffix}.txt").open("a", buffering=1, encoding="utf-8") as log,
            _logging_to(log),
        ):
            yield


@contextmanager
def only_process(output_dir: Path, rank: int = 0, wait: float = 60.0, *, patient: bool = True) -> Iterator[None]:
    """Be this rank's only process in the directory.

    Args:
        wait: for the children of a process that was killed, which notice it after some seconds.
        patient: wait as long for a process that lives; otherwise it is a user who waits.
    Raises:
        TrainingError: another process still trains here after `wait` seconds.
        InputError: another process trains here, and lives.
    """
    output_dir.mkdir(parents=True, exist_ok=True)
    with (output_dir / f"{LOCK}{f'_{rank}' if rank else ''}").open("a+", errors="replace") as lock:
        _acquire(lock, output_dir, wait, patient)
        lock.truncate(0)
        lock.write(f"{os.getpid()} {socket.gethostname()}")
        lock.flush()
        yield
        lock.truncate(0)


def refuse_second(output_dir: Path) -> None:
    """Raises InputError if another process trains in the directory, which need not be there."""
    if (output_dir / LOCK).exists():
        with only_process(output_dir, patient=False):
            pass


def _acquire(lock: IO[str], output_dir: Path, wait: float, patient: bool) -> None:
    end = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            lock.seek(0)
            process, _, host = lock.read().partition(" ")
            if not patient and _is_alive(process, host):
                raise InputError(
                    f"another process ({process} on {host}) trains in {output_dir}. Wait for its end or stop it, or "
                    "give another --output."
                ) from None
            if time.monotonic() > end:
                raise TrainingError(f"another process has been training in {output_dir} for {wait:.0f} s") from None
            time.sleep(0.1)
        except OSError as error:  # a storage without locks
            logger.warning("%s cannot be locked (%s): see to it that one process alone trains there", output_dir, error)
            return


def _is_alive(process: str, host: str) -> bool:
    """Whether it lives, as far as this machine knows."""
    if host != socket.gethostname() or not process.isdigit():
        return bool(host)
    try:
        os.kill(int(process), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


@contextmanager
def _logging_to(log: IO[str]) -> Iterator[None]:
    """Send logging, prints, and what libraries write to the process's own stdout and stderr to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers = [handler]  # instead of Ray's own, which would say everything a second time
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers = before
        root.setLevel(level)
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(saved, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
