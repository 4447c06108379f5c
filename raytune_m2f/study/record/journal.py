"""optuna.journal, checked before Optuna reads it: a file can lose or gain lines, bytes and blocks.

Optuna itself checks nothing. It stops at a line that is no JSON, passes over one that names a trial that is not
there (all later trials then have another's number), and appends behind a broken end, which makes it a broken middle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from pydantic import ValidationError

from raytune_m2f.errors import StudyError
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.study.record.attributes import OPERATION

log = logging.getLogger(__name__)

OPERATIONS = frozenset(int(operation) for operation in JournalOperation)
OF_STUDY = (JournalOperation.DELETE_STUDY, JournalOperation.SET_STUDY_USER_ATTR, JournalOperation.SET_STUDY_SYSTEM_ATTR,
            JournalOperation.CREATE_TRIAL)  # fmt: skip
OF_TRIAL = (JournalOperation.SET_TRIAL_PARAM, JournalOperation.SET_TRIAL_STATE_VALUES,
            JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE, JournalOperation.SET_TRIAL_USER_ATTR,
            JournalOperation.SET_TRIAL_SYSTEM_ATTR)  # fmt: skip


@dataclass(frozen=True)
class Journal:
    """What a journal holds.

    Attributes:
        lines: that are good, from the first on.
        end: where they end [bytes].
        size: of the whole file [bytes].
        damage: what is wrong with the next line; None if there is none.
        ends_there: no good line follows: what a crash leaves.
        has_study: the good lines begin a study.
    """

    path: Path
    lines: int
    end: int
    size: int
    damage: str | None
    ends_there: bool
    has_study: bool

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Read a journal line by line; one that is not there is empty."""
        content = path.read_bytes() if path.exists() else b""
        *whole, torn = content.split(b"\n")
        replayed = JournalStorageReplayResult("")
        lines = end = 0
        damage: str | None = "its end is missing" if torn else None
        for line in whole:
            if (problem := _replay(line, replayed)) is not None:
                damage = problem
                break
            lines += 1
            end += len(line) + 1
        follow = any(_operation(line) is not None for line in whole[lines + 1 :])
        return cls(path, lines, end, len(content), damage, not follow, bool(replayed.get_all_studies()))

    def require(self, study: str) -> None:
        """Raises StudyError if there are good lines behind a damaged one; what to do then, only a person knows."""
        if self.damage is not None and not self.ends_there:
            raise StudyError(
                f"{study}/{self.path.name}, line {self.lines + 1}, is damaged ({self.damage}), and good lines follow. "
                "Nothing was changed. Restore the file from a backup, or delete that line if it does not belong "
                f"there. Without a backup, `raytune-m2f export {study}/trials/0000 --output DIR` still exports the "
                "best weights of a trial, and `raytune-m2f tune` begins a new study in another directory."
            )

    def cut(self) -> Path | None:
        """Cut a damaged end off, for whoever appends; what is cut is kept in a file beside, which is returned.

        Of what it said, reports and ends of trials are told once more: they are in the trials' directories.
        """
        if self.damage is None:
            return None
        aside = _unused(self.path)
        with self.path.open("rb+") as file:
            file.seek(self.end)
            write_atomically(aside, file.read())
            file.truncate(self.end)
        log.warning(
            "%s was damaged from line %d to its end (%s): that was cut off and kept as %s. What it said of the trials "
            "is read from their directories.",
            self.path,
            self.lines + 1,
            self.damage,
            aside.name,
        )
        return aside

    def storage(self, *, writable: bool) -> JournalStorage:
        """For the only driver, who holds the study's lock and has cut a damaged end, or for a reader."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        lock = JournalFileOpenLock(str(self.path))
        if writable:
            return JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))
        return JournalStorage(_GoodLines(str(self.path), lock, self.lines))


class _GoodLines(JournalFileBackend):
    """The first lines of a journal."""

    def __init__(self, path: str, lock: JournalFileOpenLock, lines: int) -> None:
        super().__init__(path, lock_obj=lock)
        self._lines = lines

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        yield from islice(super().read_logs(log_number_from), max(0, self._lines - log_number_from))


def _unused(journal: Path) -> Path:
    number = 1
    while (path := journal.with_name(f"{journal.name}.damaged-{number}")).exists():
        number += 1
    return path


def _operation(line: bytes) -> dict[str, Any] | None:
    """What a line says, if it is an operation at all."""
    try:
        content = json.loads(line.decode("utf-8-sig"))  # of bytes, json guesses other encodings
    except (ValueError, RecursionError):
        return None
    known = isinstance(content, dict) and type(content.get("op_code")) is int and content["op_code"] in OPERATIONS
    return content if known else None


def _replay(line: bytes, replayed: JournalStorageReplayResult) -> str | None:
    """Do what a line says; returns what is wrong with it."""
    operation = _operation(line)
    if operation is None:
        return "it is no operation of Optuna's"
    try:
        if operation["op_code"] in OF_STUDY:
            replayed.get_study(operation["study_id"])
        if operation["op_code"] in OF_TRIAL:
            replayed.get_trial(operation["trial_id"])
    except (KeyError, TypeError):
        return "it is of a study or a trial that no line before it begins"
    try:
        OPERATION.validate_python(operation)
    except ValidationError as error:
        return f"its {error.errors()[0]['loc'][0]} is not of the kind that is written there"
    try:
        replayed.apply_logs([operation])
    except Exception as error:  # whatever Optuna meets first: it checks nothing
        return f"Optuna cannot do what it says: {error!r}"
    return None
