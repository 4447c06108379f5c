"""study.yaml: what a study was asked to do, and all that is needed to go on with it on another day."""

from __future__ import annotations

import platform
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
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.storage.text import LARGEST
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace

Point = tuple[str, dict[str, Any]]
"""Why a point is tried, and its values."""


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
    created: str = field(default_factory=lambda: now())
    data: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write study.yaml in one step: it is there as a whole or not at all."""
        write_atomically(path, yaml.safe_dump(self._as_dict(), sort_keys=False))

    def _as_dict(self) -> dict[str, Any]:
        return {
            "settings": self.settings.model_dump(mode="json"),
            "engine": self.config.value("ENGINE"),
            "created": self.created,
            "written": now(),
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
                settings=StudySettings.from_dict(data["settings"], "settings"),
                points=tuple(map(_point, data.get("points", []))),
                created=data["created"],
                data=data.get("data") or {},  # not in studies of before 2026-11-26
            )
        except (ValueError, InputError) as error:  # which do not know the file
            if isinstance(error, ConfigError | SearchSpaceError):
                raise
            raise StudyError(f"{path} cannot be read as a study's plan: {error}") from error


def _point(line: Any) -> Point:
    match line:
        case {"origin": str(origin), "values": dict(values)} if all(isinstance(key, str) for key in values):
            return origin, values
    raise ValueError(f"{line!r} is no point with origin and values")


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("raytune-m2f", "torch", "ray", "optuna")}
    return {"python": platform.python_version(), **packages}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
