"""optuna.journal, read with suspicion: a file can lose or gain lines, bytes and blocks in ways that no driver knows of.

Optuna takes a journal at its word. It stops at a line that is no JSON, passes over one that names a trial that is not
there (all later trials then have another's number), and appends behind a broken end, which makes it a broken middle.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult

from raytune_m2f.errors import StudyError

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
            with aside.open("xb") as kept:
                kept.write(file.read())
                kept.flush()
                os.fsync(kept.fileno())
            file.truncate(self.end)
            os.fsync(file.fileno())
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
    for name, fits in FIELDS.items():
        if name in operation and not fits(operation[name]):
            return f"its {name} is not of the kind that is written there"
    try:
        replayed.apply_logs([operation])
    except Exception as error:  # whatever Optuna meets first: it checks nothing
        return f"Optuna cannot do what it says: {error!r}"
    return None


# What is read from a record with no further question


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _is_count(value: Any) -> bool:
    return type(value) is int


def _is_count_or_none(value: Any) -> bool:
    return value is None or _is_count(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_report(value: Any) -> bool:
    """A flat one, whose counts are counts."""
    if not isinstance(value, dict) or not all(isinstance(entry, int | float | str | None) for entry in value.values()):
        return False
    return all(_is_number(value.get(name, 0)) for name in ("iteration", "seconds", "images", "segm/AP_se"))


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _are_numbers_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


_ATTRIBUTES: Mapping[str, Callable[[Any], bool]] = {
    "best": _is_report,
    "last": _is_report,
    **dict.fromkeys(("best_iteration", "rung", "replaced_at", "parent", "start", "replaces"), _is_count),
    **dict.fromkeys(("node_losses", "leaks_freed"), _is_count),
    **dict.fromkeys(("inherited", "gpu_seconds", "gpus"), _is_number),
    **dict.fromkeys(("origin", "prior", "stopped", "cause", "error_type", "fingerprint", "checkpoint"), _is_text),
    "paused": _is_count_or_none,
    "log_tail": _are_texts,
    "sessions": _are_numbers_by_name,
    "fixed_params": _is_mapping,
    "trained": _is_mapping,
}
"""Of trials and of the study, ours and Optuna's; see `record.py`."""


def _are_attributes(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name not in _ATTRIBUTES or _ATTRIBUTES[name](entry) for name, entry in value.items()
    )


FIELDS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("user_attr", "system_attr", "user_attrs", "system_attrs"), _are_attributes),
    **dict.fromkeys(("study_id", "trial_id", "step"), _is_count),
    **dict.fromkeys(("study_name", "worker_id", "param_name", "distribution"), _is_text),
    **dict.fromkeys(("param_value_internal", "intermediate_value"), _is_number),
    "directions": _are_numbers,
    "params": _are_numbers_by_name,
    "distributions": _is_mapping,
    "intermediate_values": _are_numbers_by_name,
    "values": lambda value: value is None or _are_numbers(value),
}
"""Entries of an operation that mean the same in all of them."""
