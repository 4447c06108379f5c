"""A study directory: what is in it, who drives it, and what it was asked to do.

study.yaml        plan: settings, space, config, versions; written atomically, and again only by `extend`
study.lock        held by the driver's process, dies with it; its text says who that is
optuna.journal    the record of truth (record.py)
trials/0007/      output_dir of Optuna's trial number 7
.ray/             Ray's own files; never read back
"""

from __future__ import annotations

import fcntl
import os
import platform
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

import yaml
from pydantic import ValidationError

from raytune_m2f.config import Config
from raytune_m2f.errors import StudyError
from raytune_m2f.training.checkpoint import BEST
from raytune_m2f.tuning.settings import StudySettings
from raytune_m2f.tuning.space import SearchSpace

Point = tuple[str, dict[str, Any]]
"""Why a point is tried, and its values."""


@dataclass(frozen=True)
class StudyDirectory:
    """Names within a study directory; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> StudyDirectory:
        return cls(Path(path).expanduser().absolute())

    @property
    def plan_file(self) -> Path:
        return self.root / "study.yaml"

    @property
    def journal(self) -> Path:
        return self.root / "optuna.journal"

    @property
    def ray(self) -> Path:
        return self.root / ".ray"

    @property
    def trials(self) -> Path:
        return self.root / "trials"

    def trial(self, number: int) -> Path:
        return self.trials / f"{number:04d}"

    def weights(self, number: int) -> Path:
        """The best weights of a trial."""
        return self.trial(number) / "checkpoints" / BEST

    def is_begun(self, path: Path) -> bool:
        """Whether something in a directory without study.yaml is of a study that was killed while it was laid out."""
        if path == self.trials:
            return not any(path.iterdir())
        return path.name.startswith((f".{self.plan_file.name}.", self.journal.name))

    def require(self) -> None:
        """Raises StudyError unless this is a study directory."""
        if not self.plan_file.is_file():
            raise StudyError(
                f"{self.root} is no study directory: it has no study.yaml. "
                "Give the directory that was given to `raytune-m2f tune --study`."
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only driver; raises StudyError that names the other one. A killed driver's lock is gone with it."""
        with (self.root / "study.lock").open("a+") as file:
            if not _lock(file, fcntl.LOCK_EX, attempts=10):  # `driver` of another process holds it for an instant
                raise StudyError(
                    f"the study {self.root} is being run by another driver ({self.driver() or 'unknown'}). "
                    "Wait for it or stop it; `raytune-m2f status` shows its progress."
                )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
            file.flush()
            yield
            file.truncate(0)

    def driver(self) -> str | None:
        """Who drives the study now, in words; None if nobody does."""
        path = self.root / "study.lock"
        if not path.exists():
            return None
        with path.open() as file:
            if not _lock(file, fcntl.LOCK_SH):
                return file.read() or "another process"
        return None


@dataclass(frozen=True)
class StudyPlan:
    """What a study was asked to do; everything that is needed to go on with it on another day.

    Attributes:
        points: what is tried before the sampler is asked, as (origin, values), beside the known-good points.
    """

    config: Config
    space: SearchSpace
    settings: StudySettings
    points: tuple[Point, ...] = ()
    created: str = field(default_factory=lambda: _now())

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
        }

    @classmethod
    def load(cls, path: Path) -> StudyPlan:
        """Raises StudyError if the file is not what `save` wrote."""
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
            return cls(
                config=Config.from_dict(data["config"], source=str(path)),
                space=SearchSpace.from_dict(data["space"]),
                settings=StudySettings.model_validate(data["settings"]),
                points=tuple((point["origin"], point["values"]) for point in data.get("points", [])),
                created=data["created"],
            )
        except (OSError, yaml.YAMLError, KeyError, TypeError, ValidationError) as error:
            raise StudyError(f"{path} cannot be read as a study's plan: {error}") from error


def plan_of(directory: str | os.PathLike[str]) -> StudyPlan:
    """The plan of a study. Raises StudyError if there is none."""
    study = StudyDirectory.at(directory)
    study.require()
    return StudyPlan.load(study.plan_file)


def write_atomically(path: Path, text: str) -> None:
    """Write to a temporary name, then rename, so that a kill leaves the old file or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


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


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("raytune-m2f", "torch", "ray", "optuna")}
    return {"python": platform.python_version(), **packages}


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
