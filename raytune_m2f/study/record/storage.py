"""Where Optuna keeps a study: in a journal in the study directory, or in a database that the user names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.trial import FrozenTrial

from raytune_m2f.errors import StudyError
from raytune_m2f.storage.address import holds_credentials
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.record.journal import Journal
from raytune_m2f.study.settings import StudySettings

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
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

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


def open_study(study: StudyDirectory, settings: StudySettings, *, writable: bool, new: bool = False) -> optuna.Study:
    """The Optuna study of a study directory; in a journal it is made if nothing has been trained yet.

    Args:
        writable: the caller holds the study's lock. What a killed driver or a crash left at the journal's end is cut.
        new: make it in a database too. Otherwise one that is not there was lost, or the address is another one.

    Raises:
        StudyError: there is no record, it is damaged or was lost, or the database does not answer. Nothing is changed.
    """
    name = study.root.name
    if settings.optuna_storage is None:
        storage: BaseStorage = _open_journal(study, writable)
    else:
        storage, name = open_database(settings.optuna_storage), settings.optuna_study or name
    with _database_errors(settings):
        names = optuna.get_all_study_names(storage)
        if settings.optuna_storage is None and names:
            name = names[0]
        if name in names:
            return optuna.load_study(study_name=name, storage=storage)
        if settings.optuna_storage is not None and not new:
            raise StudyError(_lost(study, f"{settings.optuna_storage} does not have it"))
        return optuna.create_study(study_name=name, storage=storage, directions=["maximize"] * len(settings.metrics))


def recorded_trials(study: StudyDirectory, settings: StudySettings | None) -> list[FrozenTrial]:
    """All trials of a record, which need not be there yet; raises StudyError if it cannot be read.

    Args:
        settings: None if there is no plan, which would say whether the record is in a database.
    """
    name = None
    if settings is None or settings.optuna_storage is None:
        found = Journal.read(study.journal)
        found.require(str(study))
        if not found.has_study:
            return []
        storage: BaseStorage = found.storage(writable=False)
    else:
        storage, name = open_database(settings.optuna_storage), settings.optuna_study
    with _database_errors(settings):
        if name is not None and name not in optuna.get_all_study_names(storage):
            return []
        return optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)


def forget(settings: StudySettings) -> None:
    """Delete a study from its database, if it has one: one without a trial, in whose place another was made."""
    if settings.optuna_storage is None or settings.optuna_study is None:
        return
    storage = open_database(settings.optuna_storage)
    with _database_errors(settings):
        if settings.optuna_study in optuna.get_all_study_names(storage):
            optuna.delete_study(study_name=settings.optuna_study, storage=storage)


def _open_journal(study: StudyDirectory, writable: bool) -> JournalStorage:
    """A journal that begins a study, or an empty one of a study of which nothing has been trained.

    A driver that was killed may have left Optuna's own lock file, which would block for its grace period of 30 seconds;
    nobody else can own it.
    """
    path = study.journal
    found = Journal.read(path)
    if not found.has_study and study.has_trials:
        what = "is missing" if not path.exists() else "is empty" if not found.size else "lacks its first line"
        raise StudyError(_lost(study, f"{path.name} {what}"))
    if not found.size and not writable:
        raise StudyError(f"the study {study} has no trials yet: begin it by `raytune-m2f resume {study}`")
    found.require(str(study))
    if writable:
        Path(f"{path}.lock").unlink(missing_ok=True)
        if (aside := found.cut()) is not None:
            study.push(aside)
    return found.storage(writable=writable)


def _lost(study: StudyDirectory, what: str) -> str:
    trials = study.address_of(study.trials)
    return (
        f"the study {study} has no record: {what}. A new record would mistake what is in {trials} for its own. "
        f"Restore the record from a backup. Without one, `raytune-m2f export {trials}/0000 --output DIR` still exports "
        "the best weights of a trial, and `raytune-m2f tune` begins a new study in another directory."
    )


@contextmanager
def _database_errors(settings: StudySettings | None) -> Iterator[None]:
    """Turn errors of a database, which may still fail when it is open, into StudyError."""
    address = None if settings is None else settings.optuna_storage
    if address is None:
        yield
        return
    from sqlalchemy.exc import SQLAlchemyError  # takes a tenth of a second to import, and a journal has no need of it

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise StudyError(f"the Optuna storage {address} cannot be read: {reason}") from error
