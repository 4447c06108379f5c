"""study.yaml: what a study was asked to do, on which data, and all that is needed to resume it; asking more of it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from raytune_m2f.config import Config
from raytune_m2f.config.paths import refuse_untrusted
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import ConfigError, InputError, SearchSpaceError, StudyError
from raytune_m2f.storage.files import write_atomically
from raytune_m2f.storage.text import LARGEST
from raytune_m2f.study.settings import Budget, StudySettings, Usage
from raytune_m2f.study.space import SearchSpace, space_changes

Point = tuple[str, dict[str, Any]]
"""Why a point is tried, and its values."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study was asked to do; everything that is needed to go on with it on another day.

    Attributes:
        points: what is tried before the sampler is asked, as (origin, values), beside the known-good points.
        data: fingerprints of the annotation files; see `data_fingerprints`.
        versions: of the packages that wrote it last, by name.
    """

    config: Config
    space: SearchSpace
    settings: StudySettings
    points: tuple[Point, ...] = ()
    created: str = field(default_factory=lambda: now())
    data: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: _versions())

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
                versions={name: str(found) for name, found in dict(data.get("versions") or {}).items()},
            )
        except (ValueError, InputError) as error:  # which do not know the file
            if isinstance(error, ConfigError | SearchSpaceError):
                raise
            raise StudyError(f"{path} cannot be read as a study's plan: {error}") from error


@dataclass(frozen=True)
class Extension:
    """What is added to a study; each limit is raised by so much, one that there was not yet starts from what is used.

    Attributes:
        space: in place of the present one, for the trials to come.
        points: tried before the sampler is asked.
    """

    trials: int | None = None
    iterations: int | None = None
    seconds: float | None = None
    gpu_hours: float | None = None
    space: SearchSpace | None = None
    points: tuple[Point, ...] = ()

    def of(self, plan: StudyPlan, usage: Usage, trials: Sequence[FrozenTrial] = ()) -> StudyPlan:
        """The plan as it is from now on; `trials` are those of the study.

        Raises:
            StudyError: nothing is added, or a limit that was not raised forbids to go on.
            SearchSpaceError: the study cannot go on with the new space.
        """
        more = {"trials": self.trials, "iterations": self.iterations, "seconds": self.seconds}
        more["gpu_hours"] = self.gpu_hours
        for name, amount in more.items():
            if amount is not None and not amount > 0:
                raise StudyError(f"extend {name}: got {amount}, allowed: a number above 0 to raise it by")
        if not any(more.values()) and self.space is None:
            raise StudyError("nothing to extend: give --trials, --iterations, --time, --gpu-hours or --space")
        used, limits = usage.model_dump(), plan.settings.budget.model_dump()
        raised = {key: (limits[key] or used[key]) + amount for key, amount in more.items() if amount}
        budget = Budget(**{**limits, **raised})
        if (spent := budget.spent(usage)) is not None:
            raise StudyError(f"{spent}, so nothing would happen: extend that limit too")
        if self.space is not None and not budget.allows_new_trial(usage):
            raise StudyError("all trials are started, so the new space would not be used: give --trials too")
        points = (*plan.points, *(point for point in self.points if point not in plan.points))
        if plan.settings.sampler == "grid" and (budget.trials or 0) > len(points):
            raise StudyError(f"the grid has {len(points)} points; {budget.trials} trials are more than there are")
        if self.space is not None and (
            problems := space_changes(plan.space, self.space, plan.settings.sampler, trials)
        ):
            raise SearchSpaceError("\n".join(problems))
        return replace(
            plan,
            settings=plan.settings.model_copy(update={"budget": budget}),
            space=self.space or plan.space,
            points=points,
        )


def _point(line: Any) -> Point:
    match line:
        case {"origin": str(origin), "values": dict(values)} if all(isinstance(key, str) for key in values):
            return origin, values
    raise ValueError(f"{line!r} is no point with origin and values")


def data_fingerprints(config: Config) -> dict[str, Any]:
    """The fingerprint of every registered annotation file that is on this machine, by the name of its data set."""
    from raytune_m2f.data.compare import fingerprint  # here, as a study is shown without what reads data

    found = {name: fingerprint(file) for name, file in _annotation_files(config).items()}
    return {name: known for name, known in found.items() if known is not None}


def compare_data(config: Config, recorded: dict[str, Any], study: str) -> list[str]:
    """Notes on annotation files that have changed since the study began.

    Args:
        recorded: `data_fingerprints` then.

    Raises:
        StudyError: their labels have.
    """
    from raytune_m2f.data.compare import fingerprint, label_differences

    notes, problems = [], []
    for name, file in _annotation_files(config).items():
        before = recorded.get(name)
        now = fingerprint(file, before) if before is not None else None
        if before is None or now is None or now == before:
            continue
        heads = config.value("DATASETS.SUBCATEGORIES")
        problems += [f"{file}: {text}" for text in label_differences(before, now, heads)]
        notes.append(
            f"{file} has changed since the study began ({before['images']} images and {before['annotations']} "
            f"annotations then, {now['images']} and {now['annotations']} now): new scores are not of the same data"
        )
    if problems:
        raise StudyError(
            f"the data of {study} have other labels than when it began, so its trials cannot go on:\n  "
            + "\n  ".join(problems)
            + "\nGive the study its data back, or begin a new one with `raytune-m2f tune`."
        )
    return notes


def _annotation_files(config: Config) -> dict[str, Path]:
    names = dict.fromkeys((*config.DATASETS.TRAIN, *config.DATASETS.TEST))
    registered = config.DATASETS.REGISTER
    return {name: Path(registered[name].annotations) for name in names if name in registered}


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("raytune-m2f", "torch", "ray", "optuna")}
    return {"python": platform.python_version(), **packages}


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
