"""A study directory: what is in it, who drives it, and what it was asked to do.

study.yaml        plan: settings, space, config, versions; written atomically, and again only by `extend`
study.lock        held by the driver's process, dies with it; its text says who that is
optuna.journal    the record of truth (record.py)
trials/0007/      output_dir of Optuna's trial number 7
set_aside/        directories of trials that a damaged record does not know; see leftovers.py
.ray/             Ray's own files; never read back

A study on an object store (s3://, gs://) is the same there; all that is said of a directory holds for a working copy of
it, which `remote.py` keeps up to date.
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.config import Config
from raytune_m2f.config.paths import refuse_untrusted
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import ConfigError, InputError, SearchSpaceError, StudyError
from raytune_m2f.storage.address import is_address
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.storage.lease import CLOCK, FileLock, Lease, RemoteStudy
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.storage.text import LARGEST
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.checkpoint_files import BEST, link

PLAN, JOURNAL, LOCK, TRIALS, ASIDE = "study.yaml", "optuna.journal", "study.lock", "trials", "set_aside"
Point = tuple[str, dict[str, Any]]
"""Why a point is tried, and its values."""


@dataclass(frozen=True)
class StudyDirectory:
    """Names within a study directory, and the changes that a store has to hear of.

    Attributes:
        root: absolute.
        remote: of a study on a store, whose working copy `root` is; None of one in a directory.
    """

    root: Path
    remote: RemoteStudy | None = field(default=None, repr=False, compare=False)

    @classmethod
    def at(cls, path: str | os.PathLike[str] | StudyDirectory) -> StudyDirectory:
        """A directory, or the address of a folder on a store, of which a working copy is made; one that is at hand.

        Raises:
            InputError: the address is wrong, or the store does not answer.
        """
        if isinstance(path, StudyDirectory):
            return path
        if not is_address(path):
            return cls(Path(path).expanduser().absolute())
        study = cls.of(Mirror.at(os.fspath(path)))
        study.pull()
        return study

    @classmethod
    def of(cls, mirror: Mirror) -> StudyDirectory:
        """The study that is mirrored."""
        return cls(mirror.folder, RemoteStudy(mirror, (PLAN, JOURNAL), JOURNAL, TRIALS))

    def __str__(self) -> str:
        """What the user calls it."""
        return self.address_of(self.root)

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
        return self.trials / f"{number:04d}"

    def weights(self, number: int) -> Path:
        """The best weights of a trial."""
        return self.trial(number) / "checkpoints" / BEST

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

    # A study on a store

    def address_of(self, path: Path) -> str:
        """Where the user finds a file or a folder of the study."""
        if self.remote is None:
            return str(path)
        mirror = self.remote.mirror
        return mirror.address if path == self.root else mirror.address_of(self._name(path))

    @property
    def store(self) -> str | None:
        """The address of a study on a store."""
        return None if self.remote is None else self.remote.mirror.address

    def pull(self) -> None:
        """Bring a working copy up to date; as all of the following, nothing happens without a store."""
        if self.remote is not None:
            self.remote.pull()

    def pull_trial(self, number: int, *, contents: bool = True) -> None:
        """The names of what a trial has left; with `contents` also the files, without the checkpoints."""
        if self.remote is not None:
            self.remote.pull_trial(self._name(self.trial(number)), contents=contents)

    def fetch(self, path: Path) -> None:
        """Bring one file up to date; it may not be there."""
        if self.remote is not None:
            self.remote.mirror.pull(self._name(path))

    def commit(self, *, soon: bool = False) -> None:
        """Push the record, now or as soon as it is due; raises StudyError if another driver has taken the study."""
        if self.remote is not None:
            self.remote.commit(soon=soon)

    # Changes of files, on the store too

    def push(self, path: Path) -> None:
        """Push a file that was written here."""
        if self.remote is not None:
            self.remote.mirror.push(self._name(path))

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        if self.remote is not None:
            self.remote.mirror.delete(self._name(path))

    def set_aside(self, number: int) -> str:
        """Move the directory of a trial out of the way; returns where to."""
        folder, copy = self.trial(number), 1
        while (aside := self.root / ASIDE / f"{folder.name}-{copy}").exists():
            copy += 1
        if self.remote is not None:
            self.remote.move(self._name(folder), self._name(aside))
        aside.parent.mkdir(exist_ok=True)
        folder.rename(aside)
        return self.address_of(aside)

    def link(self, source: Path, target: Path) -> None:
        """Give a checkpoint a second name."""
        if self.remote is not None and not target.exists():
            self.remote.mirror.copy(self._name(source), self._name(target))
        link(source, target)

    def clear(self) -> None:
        """Delete the plan and the record of a study that has no trial, and what a kill left of one; no other file."""
        for path in [path for path in self.root.iterdir() if self.is_ours(path) and path.is_file()]:
            if path.name != LOCK:  # its holder is who asks
                self.unlink(path)

    def save(self, plan: StudyPlan) -> None:
        plan.save(self.plan_file)
        self.push(self.plan_file)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    # The driver

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only driver; raises StudyError that names the other one.

        The working copy of a study on a store is up to date then, and the record is pushed in the end.
        """
        with self._lock.held(f"process {os.getpid()} on {socket.gethostname()} since {_now()}"):
            self.pull()
            try:
                yield
            finally:
                self.commit()

    def driver(self) -> str | None:
        """Who drives the study now, in words; None if nobody does."""
        return self._lock.holder()

    @property
    def _lock(self) -> FileLock | Lease:
        return FileLock(self.root / LOCK) if self.remote is None else self.remote.lease


@dataclass(frozen=True)
class StudyPlan:
    """What a study was asked to do; everything that is needed to go on with it on another day.

    Attributes:
        points: what is tried before the sampler is asked, as (origin, values), beside the known-good points.
        data: fingerprints of the annotation files; see `same_data.py`.
    """

    config: Config
    space: SearchSpace
    settings: StudySettings
    points: tuple[Point, ...] = ()
    created: str = field(default_factory=lambda: _now())
    data: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write study.yaml in one step: it is there as a whole or not at all."""
        write_atomically(path, yaml.safe_dump(self._as_dict(), sort_keys=False))

    def _as_dict(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "engine": self.config.value("ENGINE"),
            "created": self.created,
            "written": _now(),
            "versions": _versions(),
            "space": self.space.to_dict(),
            "points": [{"origin": origin, "values": values} for origin, values in self.points],
            "config": self.config.to_dict(),
            "data": self.data,
        }

    @classmethod
    def load(cls, path: Path, *, trust: bool = False, only_shown: bool = False) -> StudyPlan:
        """What `save` wrote.

        Args:
            trust: whether Python files that the configuration names (DATASETS.IMPORT) may run.
            only_shown: the configuration is looked at and not used, so none would; see `Config.from_dict`.

        Raises:
            StudyError: the file is not what `save` wrote.
            ConfigError: its configuration is wrong, or names Python files and is not trusted.
        """
        data = read_yaml(path, StudyError, most=LARGEST)
        for key, kind in {"config": dict, "space": dict, "settings": dict, "points": list, "created": str}.items():
            if not isinstance(data.get(key, [] if key == "points" else None), kind):
                raise StudyError(f"{path} cannot be read as a study's plan: {key} is no {kind.__name__}")
        if not (trust or only_shown):
            refuse_untrusted(data["config"], str(path))
        try:
            return cls(
                config=Config.from_dict(data["config"], source=str(path), only_shown=only_shown),
                space=SearchSpace.from_dict(data["space"], source=str(path)),
                settings=StudySettings.model_validate(data["settings"]),
                points=tuple(map(_point, data.get("points", []))),
                created=data["created"],
                data=data.get("data") or {},  # not in studies of before 2026-11-26
            )
        except (ValueError, InputError) as error:  # pydantic's, and those of metrics, which do not know the file
            if isinstance(error, ConfigError | SearchSpaceError):
                raise
            raise StudyError(f"{path} cannot be read as a study's plan: {error}") from error


def _point(line: Any) -> Point:
    match line:
        case {"origin": str(origin), "values": dict(values)} if all(isinstance(key, str) for key in values):
            return origin, values
    raise ValueError(f"{line!r} is no point with origin and values")


def plan_of(directory: str | os.PathLike[str] | StudyDirectory, *, trust: bool = False) -> StudyPlan:
    """The plan of a study. Raises StudyError if there is none; `trust` is that of `StudyPlan.load`."""
    study = StudyDirectory.at(directory)
    study.require()
    return StudyPlan.load(study.plan_file, trust=trust)


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("raytune-m2f", "torch", "ray", "optuna")}
    return {"python": platform.python_version(), **packages}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
