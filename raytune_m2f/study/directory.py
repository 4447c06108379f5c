"""A study directory: what is in it, who drives it, and what its changes mean for a study on an object store.

study.yaml        what it was asked to do (plan.py); written atomically, and again only by `extend`
study.lock        held by the driver's process, dies with it; its text says who that is
optuna.journal    the record of truth (record/)
trials/0007/      output_dir of Optuna's trial number 7
set_aside/        directories of trials that a damaged record does not know
.ray/             Ray's own files; never read back
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raytune_m2f.errors import StudyError
from raytune_m2f.storage.folder import Folder, no_contents
from raytune_m2f.storage.lease import CLOCK
from raytune_m2f.study.plan import Point as Point
from raytune_m2f.study.plan import StudyPlan as StudyPlan
from raytune_m2f.study.plan import now
from raytune_m2f.training.checkpoint_files import BEST

PLAN, JOURNAL, LOCK, TRIALS, ASIDE = "study.yaml", "optuna.journal", "study.lock", "trials", "set_aside"
COMMIT_S = 5.0
"""The record of a study goes to its store at least so often while it changes."""


class StudyDirectory:
    """The files of a study by name. Of one on a store they are a working copy, without what the checkpoints hold.

    Attributes:
        folder: the study's.
        root: where it is on this machine.
        lock: the right to drive it.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.root = folder.path
        self.lock = folder.lock(LOCK)
        self._next_commit = 0.0

    @classmethod
    def at(cls, path: str | os.PathLike[str] | StudyDirectory) -> StudyDirectory:
        """The study in a directory or at an address, of which a working copy is made; one that is at hand.

        Raises:
            InputError: the address is wrong, or the store does not answer.
        """
        if isinstance(path, StudyDirectory):
            return path
        study = cls(Folder.at(path))
        study.pull()
        return study

    def __str__(self) -> str:
        """What the user calls it."""
        return self.folder.address

    @property
    def plan_file(self) -> Path:
        return self.root / PLAN

    @property
    def journal(self) -> Path:
        return self.root / JOURNAL

    @property
    def ray(self) -> Path:
        return self.root / ".ray"

    @property
    def trials(self) -> Path:
        return self.root / TRIALS

    def trial(self, number: int) -> Path:
        """The directory of a trial."""
        return self.trials / f"{number:04d}"

    def weights(self, number: int) -> Path:
        """The best weights of a trial."""
        return self.trial(number) / "checkpoints" / BEST

    def address_of(self, path: Path) -> str:
        """Where the user finds a file or a folder of the study."""
        return str(self) if path == self.root else self.folder.address_of(self.folder.name_of(path))

    @property
    def is_laid_out(self) -> bool:
        """Whether it is a study."""
        return self.plan_file.is_file()

    @property
    def has_trials(self) -> bool:
        """Whether something of a trial is there."""
        return self.trials.is_dir() and any(self.trials.iterdir())

    def is_ours(self, path: Path) -> bool:
        """Whether something in the directory is what a study has before its first trial, or a kill left of it."""
        names = (PLAN, JOURNAL, f"{JOURNAL}.lock", LOCK, CLOCK, TRIALS, self.ray.name)
        return path.name in names or path.name.startswith(f".{PLAN}.")

    def require(self) -> None:
        """Raises StudyError unless this is a study directory."""
        if not self.is_laid_out:
            raise StudyError(
                f"{self} is no study directory: it has no study.yaml. "
                "Give the directory that was given to `raytune-m2f tune --study`."
            )

    # What others have changed on a store

    def pull(self) -> None:
        """Bring everything up to date but for what the trials' files hold."""
        self.folder.outline(contents=lambda name: name in (PLAN, JOURNAL))
        self.folder.outline(TRIALS, recursive=True)

    def pull_trial(self, number: int, *, contents: bool = True) -> None:
        """Bring the names of a trial's files up to date; with `contents` also the files, but for its checkpoints."""
        wanted = (lambda name: not name.endswith(".pth")) if contents else no_contents
        self.folder.outline(self.folder.name_of(self.trial(number)), recursive=True, contents=wanted)

    def fetch(self, path: Path) -> None:
        """Bring one file up to date, which need not be there."""
        self.folder.pull(self.folder.name_of(path))

    # Changes, which a store has to hear of

    def commit(self, *, soon: bool = False) -> None:
        """Push the record.

        Args:
            soon: only if it is due, so that a large one does not take all the time.

        Raises:
            StudyError: another driver has taken the study.
        """
        start = time.monotonic()
        if soon and start < self._next_commit:
            return
        self.lock.check()
        self.push(self.journal)
        end = time.monotonic()
        self._next_commit = end + max(COMMIT_S, 10 * (end - start))

    def push(self, path: Path) -> None:
        """Push a file that was written here."""
        self.folder.push(self.folder.name_of(path))

    def unlink(self, path: Path) -> None:
        """Delete a file, which need not be there."""
        self.folder.delete(self.folder.name_of(path))

    def link(self, source: Path, target: Path) -> None:
        """Give a checkpoint a second name."""
        self.folder.link(self.folder.name_of(source), self.folder.name_of(target))

    def set_aside(self, number: int) -> str:
        """Move the directory of a trial out of the way; returns where to."""
        folder, copy = self.trial(number), 1
        while (aside := self.root / ASIDE / f"{folder.name}-{copy}").exists():
            copy += 1
        self.folder.move(self.folder.name_of(folder), self.folder.name_of(aside))
        return self.address_of(aside)

    def clear(self) -> None:
        """Delete the plan and the record of a study that has no trial, and what a kill left of one; no other file."""
        for path in [path for path in self.root.iterdir() if self.is_ours(path) and path.is_file()]:
            if path.name != LOCK:  # its holder is who asks
                self.unlink(path)

    def save(self, plan: StudyPlan) -> None:
        """Write the plan."""
        plan.save(self.plan_file)
        self.push(self.plan_file)

    # The driver

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only driver, of an up-to-date study whose record is pushed in the end.

        Raises:
            StudyError: there is another one, which it names.
        """
        with self.lock.held(f"process {os.getpid()} on {socket.gethostname()} since {now()}"):
            self.pull()
            try:
                yield
            finally:
                self.commit()

    def driver(self) -> str | None:
        """Who drives the study now, in words; None if nobody does."""
        return self.lock.holder()


def plan_of(directory: str | os.PathLike[str] | StudyDirectory, *, trust: bool = False) -> StudyPlan:
    """The plan of a study. Raises StudyError if there is none; `trust` is that of `StudyPlan.load`."""
    study = StudyDirectory.at(directory)
    study.require()
    return StudyPlan.load(study.plan_file, trust=trust)
