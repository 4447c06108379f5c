"""All loggers of a run. What metrics.jsonl holds reaches each of them once, however often the run was broken off."""

from __future__ import annotations

import json
import logging
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from raytune_m2f.errors import TrainingError
from raytune_m2f.loggers.names import LoggerName
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.storage.text import read_object

NOTES = "loggers.json"
"""In the run's directory: the run's identity for the loggers, and what they have to remember."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoggedRun:
    """What a logger is told of the run that it is for.

    Attributes:
        folder: the run's directory on this machine.
        study: what the study, or the training, is called.
        name: what the run is called in it: the trial's number.
        identity: the same each time that the run goes on, and of no other run.
        config: dotted keys to values.
        start: the iteration from which the run goes on; reports from it on are written anew.
        notes: what the logger remembers over a break; `Loggers` saves it after each write.
    """

    folder: Path
    study: str
    name: str
    identity: str
    config: Mapping[str, Any]
    start: int
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The directory of the study, or of the training."""
        return self.folder.parents[1] if self.folder.parent.name == "trials" else self.folder


class Logger(Protocol):
    """One tool."""

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        """Write a report, unless it is there already; returns when it is out of the process's hands."""

    def close(self, failed: bool) -> None:
        """The run ends, or pauses."""


class Loggers:
    """The loggers of a run, by rank 0; each is opened when there is a first report to write.

    Args:
        folder: the run's directory.
        address: what the user calls it: its path, or an address on a store.
        config: dotted keys to values.

    Attributes:
        start: the iteration from which the run goes on; set before the first write.
    """

    def __init__(self, names: Sequence[LoggerName], folder: Path, *, address: str, config: Mapping[str, Any]) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._folder, self._address, self._config = folder, address or str(folder), config
        self.start = 0
        self._opened: dict[str, Logger] = {}
        self._written: dict[str, int] = {}
        self._failing: set[str] = set()
        self._notes: dict[str, Any] = {}

    def __bool__(self) -> bool:
        """Whether there is one."""
        return bool(self._names)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, logger in self._opened.items():
            try:
                logger.close(kind is not None)
            except Exception as problem:
                log.warning("LOGGERS: %s was not closed: %s", name, problem)

    def write(self, reports: Sequence[Mapping[str, Any]]) -> None:
        """Write those of the run's reports, in order, that a logger does not have yet; a failure is a warning."""
        for name in self._names:
            try:
                self._write(name, reports)
            except Exception as problem:
                if name not in self._failing:
                    log.warning("LOGGERS: %s took no report, which is tried again at the next one: %s", name, problem)
                self._failing.add(name)
            else:
                self._failing.discard(name)

    def _write(self, name: LoggerName, reports: Sequence[Mapping[str, Any]]) -> None:
        if name not in self._opened:
            self._opened[name] = self._open(name)
        for report in reports:
            iteration = int(report["iteration"])
            if iteration > self._written.get(name, -1):
                self._opened[name].write(iteration, numbers_of(report))
                self._written[name] = iteration
        self._save()

    def _open(self, name: LoggerName) -> Logger:
        self._load()
        *_, above, study, run = ("", "", *self._address.rstrip("/").split("/"))
        if study == "trials":  # of a study: its directory is above
            study = above
        told = LoggedRun(
            folder=self._folder,
            study=study,
            name=run,
            identity=self._notes["identity"],
            config=self._config,
            start=self.start,
            notes=self._notes.setdefault(name, {}),
        )
        opened: Logger = import_module(f"raytune_m2f.loggers.{name}").open_logger(told)
        return opened

    def _load(self) -> None:
        """Read the notes, or begin them; they are on disk before a logger makes a run of them."""
        if self._notes:
            return
        path = self._folder / NOTES
        if path.exists():
            try:
                self._notes = read_object(path, TrainingError)
            except TrainingError as problem:
                log.warning("%s; the loggers begin new runs", problem)
        if not isinstance(self._notes.get("identity"), str):
            self._notes = {"identity": uuid.uuid4().hex}
        self._save()

    def _save(self) -> None:
        write_atomically(self._folder / NOTES, json.dumps(self._notes))


def numbers_of(report: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a report by name, as a logger takes them."""
    return {
        name: float(value)
        for name, value in report.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
