"""A trial's directory as its processes hold it: lock, log, stop request, notes, and the store behind it.

What else is in it, and outlives them, is said in `training/trial_dir.py`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import IO

from raytune_m2f.errors import InputError, TrainingError
from raytune_m2f.storage.folder import Folder
from raytune_m2f.training.checkpoint_files import is_iteration
from raytune_m2f.training.trial_dir import CHECKPOINTS, FAILURE, LOCK, STOP, log_name

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
WAIT_S = 60.0  # for the children of a process that was killed, which notice it after some seconds

log = logging.getLogger(__name__)


class Place:
    """A trial's directory, or the working copy of one on a store.

    Attributes:
        folder: pulls from the store and pushes to it; both do nothing in a directory that all processes see.
        path: where the files are on this machine.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.path = folder.path

    @classmethod
    def at(cls, where: str | PathLike[str], *within: str) -> Place:
        """The directory at a path, or at an address on a store (s3://, gs://), or one within it.

        Raises:
            InputError: it is no address, holds a password, or its bucket does not answer.
        """
        return cls(Folder.at(where, *within))

    # The store

    def has_checkpoint(self) -> bool:
        """Whether a training can be resumed here."""
        return any(is_iteration(name) for name in self.folder.names(CHECKPOINTS))

    def pull(self) -> None:
        """Bring what a trial resumes from: its checkpoints, best weights, reports and notes."""
        names = [name for name in self.folder.names(recursive=True) if name not in (FAILURE, STOP)]
        self.folder.pull(*(name for name in names if not Path(name).name.startswith(("log", "rung_"))))

    def push(self) -> None:
        """Push all that the trial has left, checkpoints first."""
        self.folder.sync(CHECKPOINTS)
        self.folder.sync()

    def note(self, name: str, text: str) -> None:
        """Write a small file, from which the driver knows what this process leaves when it dies."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text, encoding="utf-8")
        self.folder.push(name)

    def stop_requested(self) -> bool:
        """Whether the trial has to return after this report."""
        return self.folder.exists(STOP)

    # The lock and the log

    @contextmanager
    def held(self, rank: int = 0, *, wait: float = WAIT_S, interactive: bool = False) -> Iterator[None]:
        """Be this rank's only process here, with its log in log.txt (log_1.txt, ... of the other ranks).

        Args:
            wait, interactive: see `locked`. Where a user follows on a terminal, the log is what the package logs, and
                goes to both; otherwise all that the process and its libraries print goes to the file instead.

        Raises:
            TrainingError, InputError: as `locked`.
        """
        with self.locked(rank, wait=wait, interactive=interactive):
            self.folder.pull(log_name(rank))
            with (
                (self.path / log_name(rank)).open("a", buffering=1, encoding="utf-8") as file,
                _package_log(file) if interactive else _redirected(file),
            ):
                yield

    @contextmanager
    def locked(self, rank: int = 0, *, wait: float = WAIT_S, interactive: bool = False) -> Iterator[None]:
        """Be this rank's only process here.

        Args:
            wait: so long [s] for another process to end.
            interactive: a user waits; one that lives is refused at once.

        Raises:
            TrainingError: another process still trains here after `wait` seconds.
            InputError: another process trains here, and lives.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / f"{LOCK}{f'_{rank}' if rank else ''}").open("a+", errors="replace") as lock:
            self._acquire(lock, wait, interactive)
            lock.truncate(0)
            lock.write(f"{os.getpid()} {socket.gethostname()}")
            lock.flush()
            yield
            lock.truncate(0)

    def require_unlocked(self) -> None:
        """Raises InputError if another process trains here; makes nothing."""
        if (self.path / LOCK).exists():
            with self.locked(interactive=True):
                pass

    def _acquire(self, lock: IO[str], wait: float, interactive: bool) -> None:
        end = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                lock.seek(0)
                process, _, host = lock.read().partition(" ")
                if interactive and _is_alive(process, host):
                    raise InputError(
                        f"another process ({process} on {host}) trains in {self.path}. Wait for its end or stop it, "
                        "or give another --output."
                    ) from None
                if time.monotonic() > end:
                    raise TrainingError(f"another process has been training in {self.path} for {wait:.0f} s") from None
                time.sleep(0.1)
            except OSError as error:  # a storage without locks
                log.warning(
                    "%s cannot be locked (%s): see to it that one process alone trains there", self.folder, error
                )
                return


def _is_alive(process: str, host: str) -> bool:
    """Whether the process lives, as far as this machine knows."""
    if host != socket.gethostname() or not process.isdigit():
        return bool(host)
    try:
        os.kill(int(process), 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return True


def _handler(file: IO[str]) -> logging.Handler:
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter(FORMAT))
    return handler


@contextmanager
def _package_log(file: IO[str]) -> Iterator[None]:
    """Add the package's log to a file."""
    handler, package = _handler(file), logging.getLogger("raytune_m2f")
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)


@contextmanager
def _redirected(file: IO[str]) -> Iterator[None]:
    """Send logging, prints, and what libraries write to the process's own stdout and stderr to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    root = logging.getLogger()
    before, level = root.handlers, root.level
    root.handlers = [_handler(file)]  # instead of Ray's own, which would say everything a second time
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
