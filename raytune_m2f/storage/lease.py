"""The right to drive a study, one driver at a time, behind one interface: a lock in a directory, a lease on a store.

The operating system drops a file's lock when its holder dies. A store knows no such lock: its lease is renewed as long
as the driver lives, and one that was not renewed for a minute is anybody's.
"""

from __future__ import annotations

import fcntl
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Protocol

from raytune_m2f.errors import CheckpointError, StudyError
from raytune_m2f.storage.object_store import ObjectStore

log = logging.getLogger(__name__)

CLOCK = ".clock"
"""A file that is written to read the store's clock."""
RENEW_S, STALE_S = 10.0, 60.0
SETTLE_S = 2.0
"""After a lease was written, for another driver to write its own."""


class Lock(Protocol):
    """The right to drive a study."""

    def held(self, holder: str) -> AbstractContextManager[None]:
        """Be the only driver in the block; raises StudyError that names the other one.

        Args:
            holder: this driver, in words.
        """

    def holder(self) -> str | None:
        """Who drives the study now, in words; None if nobody does."""

    def check(self) -> None:
        """Raises StudyError if somebody else has taken the study, CheckpointError if that cannot be known."""


def refusal(study: str, holder: str) -> StudyError:
    """What a second driver is told."""
    return StudyError(
        f"the study {study} is being run by another driver ({holder}). "
        "Wait for it or stop it; `raytune-m2f status` shows its progress."
    )


class FileLock:
    """The lock of the study in the directory of `path`, a file whose text names the holder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        with self._path.open("a+") as file:
            if not _try_lock(file, fcntl.LOCK_EX, attempts=10):  # `holder` of another process has it for an instant
                raise refusal(str(self._path.parent), self.holder() or "unknown")
            file.truncate(0)
            file.write(holder)
            file.flush()
            yield
            file.truncate(0)

    def holder(self) -> str | None:
        if not self._path.exists():
            return None
        with self._path.open(encoding="utf-8", errors="replace") as file:
            if not _try_lock(file, fcntl.LOCK_SH):
                return file.read() or "another process"
        return None

    def check(self) -> None:
        """It cannot be taken away."""


def _try_lock(file: IO[str], kind: int, attempts: int = 1) -> bool:
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.05)
        with suppress(OSError):
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return True
    return False


class Lease:
    """The lease of the study on `store`, a file of JSON that names the holder."""

    def __init__(self, store: ObjectStore, name: str, *, renew_s: float = RENEW_S, stale_s: float = STALE_S) -> None:
        """The lease is renewed every `renew_s`; one that is older than `stale_s` is anybody's [s]."""
        self._store = store
        self._name = name
        self._renew_s, self._stale_s = renew_s, stale_s
        self._token = uuid.uuid4().hex
        self._text = ""
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._confirmed = 0.0
        self.lost_to: str | None = None

    def holder(self) -> str | None:
        """Who drives the study now; the lease's age is by this machine's clock."""
        written = self._store.modified(self._name)
        if written is None or time.time() - written > self._stale_s:
            return None
        return self._read()[0]

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        self._take(json.dumps({"holder": holder, "token": self._token}))
        self._over.clear()
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(self._renew_s)
            with suppress(CheckpointError):  # it runs out by itself
                if self._read()[1] == self._token:
                    self._store.delete(self._name)

    def check(self) -> None:
        if self._text and time.monotonic() - self._confirmed > self._stale_s / 2:
            self._confirm()
        if self.lost_to is not None:
            raise StudyError(
                f"the study {self._store.address} was taken over by another driver ({self.lost_to}), for this one was "
                f"not heard of for {self._stale_s:.0f} s. What its trials reported is kept."
            )

    def _take(self, text: str) -> None:
        self._wait_until_free()
        self._text = text
        self._store.write(self._name, text)
        time.sleep(SETTLE_S)
        holder, token = self._read()
        if token != self._token:
            raise refusal(self._store.address, holder)
        self._confirmed = time.monotonic()

    def _wait_until_free(self) -> None:
        """Return when there is no lease, or one that nobody renews any more."""
        written = self._store.modified(self._name)
        if written is None:
            return
        self._store.write(CLOCK, "")
        left = self._stale_s - ((self._store.modified(CLOCK) or written) - written)
        self._store.delete(CLOCK)
        if left > 0:
            log.info("a driver held the study %.0f s ago: waiting whether it lives", self._stale_s - left)
        end = time.monotonic() + left
        while (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, self._renew_s / 5))
            now = self._store.modified(self._name)
            if now is None:
                return
            if now != written:
                raise refusal(self._store.address, self._read()[0])

    def _read(self) -> tuple[str, str]:
        """Holder and token."""
        try:
            found = json.loads(self._store.read(self._name) or "{}")
            return found["holder"], found["token"]
        except (ValueError, KeyError, TypeError):
            return "unknown", ""

    def _renew(self) -> None:
        while self.lost_to is None and not self._over.wait(self._renew_s):
            with suppress(CheckpointError):  # `check` asks again before anything is written
                self._confirm()

    def _confirm(self) -> None:
        with self._guard:
            holder, token = self._read()
            if token != self._token:
                self.lost_to = holder
                return
            self._store.write(self._name, self._text)
            self._confirmed = time.monotonic()
