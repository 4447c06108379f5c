"""The lock of a study directory: held by the driver's process, dies with it; its text says who that is.

A study on an object store: its working copy, its record there, and the lease that makes a driver the only one.

A store knows no lock that dies with its holder. The lease `study.lock` is renewed as long as its driver lives; one that
was not renewed for a minute is anybody's.
"""

from __future__ import annotations

import fcntl
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from raytune_m2f.errors import CheckpointError, StudyError
from raytune_m2f.storage.mirror import Mirror


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


log = logging.getLogger(__name__)

LEASE, CLOCK = "study.lock", ".clock"
RENEW_S, STALE_S = 10.0, 60.0
SETTLE_S = 2.0  # after it was written, for another driver to write its own
COMMIT_S = 5.0  # the record goes to the store at least so often while it changes


class Lease:
    """The right to drive the study at `mirror`."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._token = uuid.uuid4().hex
        self._text = ""
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._confirmed = 0.0
        self._lost: str | None = None

    def holder(self) -> str | None:
        """Who drives the study now, in words; None if nobody does. The age is by this machine's clock."""
        written = self._mirror.modified(LEASE)
        if written is None or time.time() - written > STALE_S:
            return None
        return self._read()[0]

    @contextmanager
    def held(self, holder: str) -> Iterator[None]:
        """Be the only driver; raises StudyError that names the other one."""
        self._take(json.dumps({"holder": holder, "token": self._token}))
        self._over.clear()
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join(RENEW_S)
            with suppress(CheckpointError):  # it runs out by itself
                if self._read()[1] == self._token:
                    self._mirror.delete(LEASE)

    def check(self) -> None:
        """Raises StudyError if somebody else has taken the study, CheckpointError if the store does not say."""
        if self._text and time.monotonic() - self._confirmed > STALE_S / 2:
            self._confirm()
        if self._lost is not None:
            raise StudyError(
                f"the study {self._mirror.address} was taken over by another driver ({self._lost}), for this one was "
                f"not heard of for {STALE_S:.0f} s. What its trials reported is kept."
            )

    def _take(self, text: str) -> None:
        self._wait_until_free()
        self._text = text
        self._mirror.write(LEASE, text)
        time.sleep(SETTLE_S)
        holder, token = self._read()
        if token != self._token:
            raise refusal(self._mirror.address, holder)
        self._confirmed = time.monotonic()

    def _wait_until_free(self) -> None:
        """Return when there is no lease, or one that nobody renews any more."""
        written = self._mirror.modified(LEASE)
        if written is None:
            return
        self._mirror.write(CLOCK, "")
        left = STALE_S - ((self._mirror.modified(CLOCK) or written) - written)
        self._mirror.delete(CLOCK)
        if left > 0:
            log.info("a driver held the study %.0f s ago: waiting whether it lives", STALE_S - left)
        end = time.monotonic() + left
        while (rest := end - time.monotonic()) > 0:
            time.sleep(min(rest, RENEW_S / 5))
            now = self._mirror.modified(LEASE)
            if now is None:
                return
            if now != written:
                raise refusal(self._mirror.address, self._read()[0])

    def _read(self) -> tuple[str, str]:
        """Holder and token."""
        try:
            found = json.loads(self._mirror.read(LEASE) or "{}")
            return found["holder"], found["token"]
        except (ValueError, KeyError, TypeError):
            return "unknown", ""

    def _renew(self) -> None:
        while self._lost is None and not self._over.wait(RENEW_S):
            with suppress(CheckpointError):  # `check` asks again before anything is written
                self._confirm()

    def _confirm(self) -> None:
        with self._guard:
            holder, token = self._read()
            if token != self._token:
                self._lost = holder
                return
            self._mirror.write(LEASE, self._text)
            self._confirmed = time.monotonic()


class RemoteStudy:
    """What `StudyDirectory` does with a study on a store.

    Attributes:
        mirror: the working copy. It holds the checkpoints' names only, with empty files.
    """

    def __init__(self, mirror: Mirror, whole: tuple[str, ...], record: str, trials: str) -> None:
        """`whole` are the files that are pulled, `record` the one of them that `commit` pushes."""
        self.mirror = mirror
        self.lease = Lease(mirror)
        self._whole, self._record, self._trials = whole, record, trials
        self._next_commit = 0.0

    def pull(self) -> None:
        """Bring the working copy up to date, but for what the trials' files hold."""
        names = self.mirror.outline()
        self.mirror.pull(*(name for name in self._whole if name in names))
        self.mirror.outline(self._trials, recursive=True)

    def pull_trial(self, folder: str, *, contents: bool) -> None:
        """The names of what a trial has left; with `contents` also the files, without the checkpoints."""
        names = self.mirror.outline(folder, recursive=True)
        if contents:
            self.mirror.pull(*(name for name in names if not name.endswith(".pth")))

    def move(self, folder: str, target: str) -> None:
        """Give all files of a folder on the store another place."""
        for name in self.mirror.names(folder, recursive=True):
            self.mirror.copy(name, target + name.removeprefix(folder))
            self.mirror.delete(name)

    def commit(self, *, soon: bool) -> None:
        """Push the record; `soon` waits until it is due, so that a large one does not take all the time."""
        now = time.monotonic()
        if soon and now < self._next_commit:
            return
        self.lease.check()
        self.mirror.push(self._record)
        done = time.monotonic()
        self._next_commit = done + max(COMMIT_S, 10 * (done - now))
