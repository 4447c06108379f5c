"""Laying out a study: whatever can be refused is refused before anything is written.

A study without a trial has not begun, whether it was refused, or killed while it was laid out: another takes its place.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike

from optuna.trial import FrozenTrial

from raytune_m2f.config import Config
from raytune_m2f.errors import StudyError
from raytune_m2f.storage.lease import refusal
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import Point, StudyPlan, data_fingerprints
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.record.storage import check_address, forget, open_database, open_study, recorded_trials
from raytune_m2f.study.settings import StudySettings
from raytune_m2f.study.space import SearchSpace, grid


@dataclass(frozen=True)
class NewStudy:
    """A study that may be laid out; nothing of it is written yet.

    Attributes:
        prior: trials of earlier studies that the sampler learns from; see `points.py`.
    """

    directory: StudyDirectory
    plan: StudyPlan
    prior: tuple[FrozenTrial, ...] = ()

    @contextmanager
    def laid_out(self) -> Iterator[StudyDirectory]:
        """Lay the study out, and be its only driver; raises StudyError if another was quicker."""
        study, settings = self.directory, self.plan.settings
        study.root.mkdir(parents=True, exist_ok=True)
        with study.locked():
            _require_room(study)
            before = _present_plan(study)
            study.clear()
            study.trials.mkdir(exist_ok=True)
            if self.prior or settings.optuna_storage is not None:
                open_study(study, settings, writable=True, new=True).add_trials(self.prior)
                study.push(study.journal)
            # here, as it imports torch, which a refusal need not wait for
            study.save(replace(self.plan, data=data_fingerprints(self.plan.config)))
            if before is not None:
                forget(before.settings)
            yield study

    def create(self) -> StudyDirectory:
        """Lay the study out; nothing runs yet. Raises StudyError if another was quicker."""
        with self.laid_out() as study:
            return study


def new_study(
    directory: str | PathLike[str] | StudyDirectory,
    config: Config,
    space: SearchSpace,
    settings: StudySettings,
    *,
    points: Sequence[Point] = (),
    prior: Sequence[FrozenTrial] = (),
) -> NewStudy:
    """A study that can be laid out, as far as that can be known without its cluster.

    Args:
        points: tried first, after the known-good ones.
        prior: trials of earlier studies that the sampler learns from; see `points.py`.

    Raises:
        StudyError: there is a study already, the directory holds something else, the database does not answer, or
            the settings do not fit the configuration.
    """
    study = StudyDirectory.at(directory)
    if (holder := study.driver()) is not None:
        raise refusal(str(study), holder)
    _require_room(study)
    _check_grace(settings, config)
    if settings.optuna_storage is not None:
        check_address(settings.optuna_storage)
        open_database(settings.optuna_storage)
        name = f"{study.root.name} {uuid.uuid4().hex[:8]}"  # another directory may have the same name
        settings = settings.model_copy(update={"optuna_study": name})
    if settings.sampler == "grid" and not points:
        points = _grid_points(space, config)
        most = min(len(points), settings.budget.trials or len(points))
        settings = settings.model_copy(update={"budget": settings.budget.model_copy(update={"trials": most})})
    return NewStudy(study, StudyPlan(config, space, settings, tuple(points)), tuple(prior))


def _grid_points(space: SearchSpace, config: Config) -> list[Point]:
    own = space.own_values(config)
    return [("config" if values == own else "grid", values) for values in grid(space)]


def has_begun(study: StudyDirectory) -> bool:
    """Whether a trial was started here; raises StudyError if the plan or the record cannot be read."""
    if study.has_trials:
        return True
    plan = _present_plan(study)
    settings = None if plan is None else plan.settings
    return any(is_here(trial) for trial in recorded_trials(study, settings))


def _present_plan(study: StudyDirectory) -> StudyPlan | None:
    return StudyPlan.load(study.plan_file) if study.is_laid_out else None


def _require_room(study: StudyDirectory) -> None:
    """Raises StudyError if there is a study that has begun, or something that is not ours."""
    if not study.root.exists():
        return
    if not study.is_laid_out and (study.has_trials or not all(study.is_ours(path) for path in study.root.iterdir())):
        raise StudyError(f"{study} is not empty and no study; give a new or an empty directory.")
    if has_begun(study):
        raise StudyError(
            f"{study} is a study already. Go on with it by `raytune-m2f resume {study}`, or give another directory."
        )


def _check_grace(settings: StudySettings, config: Config) -> None:
    grace, end = settings.early_stopping.grace_iterations, config.value("SOLVER.MAX_ITER")
    if grace is not None and grace >= end and settings.early_stopping.method != "none":
        raise StudyError(
            f"--grace {grace}: the trainings end at SOLVER.MAX_ITER = {end}, so nobody would be stopped. Give less, or "
            "--early-stopping none."
        )
