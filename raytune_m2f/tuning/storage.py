"""Where the Optuna study is kept: a journal in the study directory, or a database that the user names."""

from __future__ import annotations

import os
import re
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from raytune_m2f.credentials import holds_credentials
from raytune_m2f.errors import StudyError
from raytune_m2f.tuning.settings import StudySettings

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def open_database(address: str) -> BaseStorage:
    """Connect to a database as SQLAlchemy names it, e.g. `postgresql://me:${DB_PASSWORD}@host/optuna`.

    Raises:
        StudyError: a variable is not set, a driver is not installed, or the database does not answer.
    """
    missing = [name for name in _VARIABLE.findall(address) if name not in os.environ]
    if missing:
        raise StudyError(f"the Optuna storage {address} needs the environment variable(s) {', '.join(missing)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        return RDBStorage(_VARIABLE.sub(lambda match: os.environ[match[1]], address))
    except Exception as error:  # SQLAlchemy's, the driver's, or ImportError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StudyError(f"the Optuna storage {address} cannot be opened: {reason}") from error


def check_address(address: str) -> None:
    """Raises StudyError if it is no address of a database, or holds a password, which study.yaml would then hold."""
    if _VARIABLE.fullmatch(address):
        return
    try:
        url = make_url(_VARIABLE.sub("0", address))  # a number, as a port is one
    except (ArgumentError, ValueError):  # the latter of a port that is no number
        raise StudyError(
            "--optuna-storage is no address of a database; allowed are SQLAlchemy's, such as "
            "sqlite:////shared/optuna.db or 'postgresql://user:${DB_PASSWORD}@host/optuna'"
        ) from None
    if url.drivername.startswith("sqlite") and not Path(url.database or "").is_absolute():
        raise StudyError("--optuna-storage: name a SQLite file by its whole path, e.g. sqlite:////shared/optuna.db")
    if str(url.password or "").strip("0") or holds_credentials(address):
        raise StudyError(
            "--optuna-storage holds a password, which would be saved in study.yaml. Name an environment variable "
            "instead, in single quotes: 'postgresql://user:${DB_PASSWORD}@host/optuna'."
        )


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


def open_study(journal: Path, name: str, settings: StudySettings, *, writable: bool, new: bool = False) -> optuna.Study:
    """The Optuna study of a study directory; in a journal it is made if it is not there yet.

    Args:
        new: make it in a database too. Otherwise one that is not there was lost, or the address is another one.
    Raises:
        StudyError: there is no record, or the database does not answer.
    """
    if settings.optuna_storage is None:
        if not writable and not journal.exists():
            raise StudyError(f"the study {journal.parent} has no trials yet: {journal} is missing")
        storage: BaseStorage = open_for_writing(journal) if writable else open_for_reading(journal)
    else:
        storage = open_database(settings.optuna_storage)
        name = settings.optuna_study or name
    names = optuna.get_all_study_names(storage)
    if settings.optuna_storage is None and names:
        name = names[0]
    if name in names:
        return optuna.load_study(study_name=name, storage=storage)
    if not writable or (settings.optuna_storage is not None and not new):
        raise StudyError(f"the study {journal.parent} has no record: {settings.optuna_storage or journal} lacks it")
    return optuna.create_study(study_name=name, storage=storage, directions=["maximize"] * len(settings.metrics))
