"""Which of the best trials is the best: they are trained again under new seeds.

The best of many trials owes a part of its score to luck: to the seed, and to having been chosen for its score. The same
seeds are given to every leader, so that differences are taken within a seed. Here the study of these trainings is laid
out and compared; `Study.confirm` runs it.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from math import sqrt
from os import PathLike
from typing import Any

from optuna.trial import TrialState
from scipy.special import stdtrit  # scipy.stats has the same, and takes a second to import

from raytune_m2f.errors import StudyError, TrainingError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import NewStudy, has_begun, new_study
from raytune_m2f.study.plan import Extension, Point, StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, EarlyStopping
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.study.status import TrialStatus, study_status

FOLDER = "confirm"
MOST_SEED = 2**31 - 1  # of the configuration's SEED; the one after it is 0
SEEDS = {"type": "int", "low": 0, "high": MOST_SEED}


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval by Student's t.

    Attributes:
        half_width: None with a single value.
    """

    value: float
    half_width: float | None

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean, None)
        error = statistics.stdev(values) / sqrt(len(values))
        return cls(mean, float(stdtrit(len(values) - 1, 0.975)) * error)

    def __str__(self) -> str:
        return f"{self.value:.2f}" + ("" if self.half_width is None else f" ± {self.half_width:.2f}")


@dataclass(frozen=True)
class Leader:
    """A trial of the study, and its scores under new seeds.

    Attributes:
        trial: number in the study.
        first: score there.
        scores: by seed; a seed that failed is missing.
    """

    trial: int
    first: float
    scores: dict[int, float]

    @property
    def mean(self) -> Mean:
        return Mean.of(list(self.scores.values()))


@dataclass(frozen=True)
class Confirmation:
    """The leaders, the best mean first."""

    leaders: list[Leader]

    @property
    def winner(self) -> Leader:
        return self.leaders[0]

    def lead(self) -> Mean | None:
        """By how much the winner is better than the second, over the seeds that both have; None if there is none."""
        if len(self.leaders) < 2:
            return None
        second = self.leaders[1].scores
        differences = [score - second[seed] for seed, score in self.winner.scores.items() if seed in second]
        return Mean.of(differences) if differences else None

    def is_certain(self) -> bool:
        """Whether the interval of the lead lies above zero."""
        lead = self.lead()
        return lead is not None and lead.half_width is not None and lead.value > lead.half_width

    def __str__(self) -> str:
        """Who has won, and how surely."""
        winner, lead = self.winner, self.lead()
        interval = " (95 % interval)" if winner.mean.half_width is not None else ""
        text = f"winner: trial {winner.trial} with {winner.mean}{interval}"
        if lead is None:
            return text
        certain = "" if self.is_certain() else ", which is not certain: give more --seeds"
        return f"{text}, {lead} above trial {self.leaders[1].trial}{certain}"


@dataclass(frozen=True)
class PlannedConfirmation:
    """The study in which the leaders are trained again, not run yet.

    Attributes:
        directory: the subdirectory `confirm` of the study.
        target: what is run: a new study, or that directory where it has begun before.
        extension: what is added to one that has begun; None if nothing is missing in it.
    """

    directory: StudyDirectory
    leaders: list[TrialStatus]
    target: StudyDirectory | NewStudy
    extension: Extension | None = None

    def compare(self) -> Confirmation:
        """What came of it.

        Raises:
            TrainingError: no training came to its end.
        """
        directory = self.directory
        record = Record(directory, StudyPlan.load(directory.plan_file, only_shown=True), writable=False)
        scores = _scores(record)
        found = [
            Leader(leader.number, leader.best or 0.0, scores[f"trial {leader.number}"])
            for leader in self.leaders
            if f"trial {leader.number}" in scores
        ]
        if not found:
            raise TrainingError(f"no training in {directory} came to its end, so there is nothing to compare")
        return Confirmation(sorted(found, key=lambda leader: -leader.mean.value))


def plan_confirmation(
    directory: str | PathLike[str] | StudyDirectory, *, top: int = 3, seeds: int = 3, trust: bool = False
) -> PlannedConfirmation:
    """Prepare to train the best `top` trials of a study again under `seeds` new seeds, in its subdirectory `confirm`.

    Of several trials with the same values the first is taken. Planned again, what has been trained before is kept, and
    only what a larger `top` or `seeds` asks for is added.

    Args:
        trust: whether Python files that the study's configuration names (DATASETS.IMPORT) may run.

    Raises:
        StudyError: the study has not so many different trials with a score.
        ConfigError: the configuration names Python files and is not trusted.
    """
    if top < 1 or seeds < 1:
        raise StudyError(f"confirm: got top {top} and seeds {seeds}, allowed: 1 or more of each")
    study = StudyDirectory.at(directory)
    leaders = _leaders(study, top)
    record = Record(study, StudyPlan.load(study.plan_file, trust=trust), writable=False)
    confirming = StudyDirectory.at(study.address_of(study.root / FOLDER))
    points = _points(record, leaders, seeds)
    if not (confirming.is_laid_out and has_begun(confirming)):
        return PlannedConfirmation(confirming, leaders, _new_study(confirming, record.plan, points))
    known = StudyPlan.load(confirming.plan_file, only_shown=True).points
    missing = tuple(point for point in points if point not in known)
    extension = Extension(trials=len(missing), points=missing) if missing else None
    return PlannedConfirmation(confirming, leaders, confirming, extension)


def _new_study(confirming: StudyDirectory, plan: StudyPlan, points: list[Point]) -> NewStudy:
    settings = plan.settings.model_copy(
        update={
            "budget": Budget(trials=len(points)),
            "sampler": "grid",  # the points are all there is
            "early_stopping": EarlyStopping(method="none"),
            "stop_when_flat": False,
            "keep_checkpoints": len(points),
            "optuna_storage": None,
            "optuna_study": None,
        }
    )
    space = SearchSpace.from_dict({**plan.space.to_dict(), "SEED": SEEDS}, source=str(confirming))
    return new_study(confirming, plan.config, space, settings, points=points)


def _leaders(study: StudyDirectory, top: int) -> list[TrialStatus]:
    trials = [
        trial
        for trial in study_status(study).trials
        if trial.best is not None and trial.feasible and trial.state != "failed"
    ]
    leaders: list[TrialStatus] = []
    for trial in sorted(trials, key=lambda trial: (-trial.images, -(trial.best or 0.0), trial.number)):
        if all(_varied(trial) != _varied(leader) for leader in leaders):
            leaders.append(trial)
    if len(leaders) < top:
        raise StudyError(
            f"the study {study} has {len(leaders)} different trials with a score; --top {top} are too many"
        )
    return leaders[:top]


def _varied(trial: TrialStatus) -> dict[str, Any]:
    """Its values, but for the seed, which is replaced."""
    return {key: value for key, value in trial.values.items() if key != "SEED"}


def _points(record: Record, leaders: list[TrialStatus], seeds: int) -> list[Point]:
    """What the sampler drew for each leader, under each of the seeds that follow the study's own."""
    own = int(record.plan.config.value("SEED"))
    return [
        (f"trial {leader.number}", {**record.trial(leader.number).params, "SEED": (own + 1 + seed) % (MOST_SEED + 1)})
        for seed in range(seeds)
        for leader in leaders
    ]


def _scores(record: Record) -> dict[str, dict[int, float]]:
    """The score under each seed, by the origin of the point: "trial 7"."""
    scores: dict[str, dict[int, float]] = {}
    for trial in record.trials(TrialState.COMPLETE):
        score = record.score(trial)
        assert score is not None  # of a complete trial
        scores.setdefault(trial.user_attrs["origin"], {})[trial.params["SEED"]] = score
    return scores
