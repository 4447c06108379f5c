"""The file of the Optuna study: opened for the one driver that writes it, or for readers beside it."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock


def open_for_writing(path: Path) -> JournalStorage:
    """Open a journal whose only driver is the caller, who holds the study's lock.

    A driver that was killed may have left half a line at the end, to which the next line would be glued and make the
    journal unreadable, and Optuna's own lock file, which would block for its grace period of 30 seconds. Both are
    cleared: nobody else can own them.
    """
    path = path.absolute()
    Path(f"{path}.lock").unlink(missing_ok=True)
    _cut_torn_line(path)
    return _storage(path)


def open_for_reading(path: Path) -> JournalStorage:
    """Open an existing journal, also while a driver writes it; half a line at the end is not read."""
    return _storage(path.absolute())


def _storage(path: Path) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:  # backwards, as a journal may be large and a torn line is short
            start = max(0, end - 4096)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
