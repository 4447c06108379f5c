"""The lock of a study directory: held by the driver's process, dies with it; its text says who that is."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from raytune_m2f.errors import StudyError


def refusal(study: str, holder: str) -> StudyError:
    """What a second driver is told."""
    return StudyError(
        f"the study {study} is being run by another driver ({holder}). "
        "Wait for it or stop it; `raytune-m2f status` shows its progress."
    )


class FileLock:
    """The right to drive the study in the directory of `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Be the only driver; raises StudyError that names the other one. A killed driver's lock is gone with it."""
        with self._path.open("a+") as file:
            if not _lock(file, fcntl.LOCK_EX, attempts=10):  # `holder` of another process holds it for an instant
                raise refusal(str(self._path.parent), self.holder() or "unknown")
            file.truncate(0)
            file.write(holder)
            file.flush()
            yield
            file.truncate(0)

    def holder(self) -> str | None:
        """Who drives the study now, in words; None if nobody does."""
        if not self._path.exists():
            return None
        with self._path.open(encoding="utf-8", errors="replace") as file:
            if not _lock(file, fcntl.LOCK_SH):
                return file.read() or "another process"
        return None


def _lock(file: IO[str], kind: int, attempts: int = 1) -> bool:
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.05)
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except OSError:
            continue
        return True
    return False
