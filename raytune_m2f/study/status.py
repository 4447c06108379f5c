"""How a study stands, read from its directory alone: while a driver runs, after it was killed, years later."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import StudyError
from raytune_m2f.progress import read_progress
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.learned import insight_of
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.search.insight import Gain, Insight
from raytune_m2f.training.objective import Objective
from raytune_m2f.training.symptoms import head_name, symptoms, vitals_of

SHOWN_AS_ZERO = 0.005
STATES = {
    TrialState.WAITING: "waiting",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class TrialStatus:
    """One trial.

    Attributes:
        state: waiting, running, unfinished (it ran and no driver runs it now), paused (it waits at a rung), complete,
            stopped (early) or failed.
        origin: why this point was tried, if it was not the sampler's idea; see `record.py`.
        iteration, max_iter: of the latest report, and of the end; optimizer steps.
        images: how many were scored for `best`; fewer than at the end with TEST.SUBSET.
        last, best: the first metric at the latest report and at the best one, which was at `best_iteration`.
        others: the other metrics at the best report.
        standard_error: of the first metric at the best report, by image bootstrap; None where it is not known.
        feasible: whether it keeps the constraints.
        values: of the searched keys, as they are trained.
        seconds: time in which it trained.
        cause: why it failed or was stopped.
        checkpoint: the best weights, if they are there.
        vitals: of its heads, in the latest report; see `learner/vitals.py`.
        symptoms: what the vitals of its heads show, in the latest report and in the one before.
        climbed: what the search compares its latest report by, where that is not the metric; see `training/climb.py`.
    """

    number: int
    state: str
    origin: str | None
    iteration: int
    max_iter: int
    last: float | None
    best: float | None
    best_iteration: int | None
    images: int
    others: list[float]
    standard_error: float | None
    feasible: bool
    values: dict[str, Any]
    seconds: float
    cause: str | None
    directory: str
    checkpoint: str | None
    vitals: dict[str, float] = field(default_factory=dict)
    symptoms: list[str] = field(default_factory=list)
    climbed: float | None = None


@dataclass(frozen=True)
class StudyStatus:
    """A study.

    Attributes:
        driver: who runs it now, None if nobody does.
        metrics: what is maximised; trials are ranked by the first.
        budget, usage: limits (None: no limit) and what is used: trials, iterations, seconds, gpu_hours.
        best: number of the trial with the best report, among those that did not fail, keep the constraints, and whose
            weights are there. A score on all test images stands above every score on a subset.
        leaks_freed: placement groups that ended trials had left in the cluster, and that were freed.
        resumable: nobody runs it, and `resume` would find something to train.
        seconds_left: about how long its driver has still to work; None if nobody runs it or there is no rate yet.
        flat: what further trials would bring, if none starts because that is less than the noise (stop_when_flat).
        insight: what it has learned; None unless that was asked for.
    """

    directory: str
    metrics: list[str]
    driver: str | None
    budget: dict[str, float | None]
    usage: dict[str, float]
    best: int | None
    trials: list[TrialStatus]
    leaks_freed: int = 0
    resumable: bool = False
    seconds_left: float | None = None
    flat: Gain | None = None
    insight: Insight | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return dict(Counter(trial.state for trial in self.trials))

    @property
    def best_trial(self) -> TrialStatus | None:
        return next((trial for trial in self.trials if trial.number == self.best), None)

    @property
    def metric(self) -> str:
        return self.metrics[0]

    @property
    def found_nothing(self) -> bool:
        """Whether trials have a score, and the best is a zero of a metric that rises from 0."""
        best = self.best_trial
        rises = all(weight > 0 for weight, _ in Objective.parse(self.metric).terms)
        return rises and best is not None and best.best is not None and best.best < SHOWN_AS_ZERO

    def within_noise(self) -> list[TrialStatus]:
        """The trials whose distance to the best is less than twice its standard error: they may be as good.

        The error of the difference is taken as that of two independent scores, sqrt(a^2 + b^2). Both were scored on the
        same images, so the true one is smaller: this asks for caution rather than too little of it.
        """
        best = self.best_trial
        if best is None or best.best is None or best.standard_error is None:
            return []
        return [
            trial
            for trial in self.trials
            if trial.number != best.number and trial.state != "failed" and trial.feasible
            if trial.best is not None and trial.standard_error is not None and trial.images == best.images
            if best.best - trial.best < 2 * math.hypot(best.standard_error, trial.standard_error)
        ]

    def ranked(self) -> list[TrialStatus]:
        """The trials whose weights are there and that did not fail and keep the constraints, the best first."""
        return _ranked(self.trials)

    def trial(self, number: int) -> TrialStatus:
        """The trial with this number. Raises StudyError if there is none."""
        found = next((trial for trial in self.trials if trial.number == number), None)
        if found is None:
            raise StudyError(
                f"trial {number} of the study {self.directory} does not exist. It has {len(self.trials)} trials, "
                "counted from 0."
            )
        return found

    def trial_to_export(self, number: int | None = None) -> TrialStatus:
        """The trial with this number, or the best one.

        Raises:
            StudyError: there is no such trial, or it has no weights yet.
        """
        usable = [trial for trial in self.trials if trial.checkpoint is not None]
        wanted = self.best if number is None else number
        found = next((trial for trial in usable if trial.number == wanted), None)
        if found is not None:
            return found
        if number is None:
            counts = ", ".join(f"{count} {state}" for state, count in self.counts.items()) or "it has no trials"
            raise StudyError(
                f"no trial of the study {self.directory} has weights to use yet ({counts}). "
                "Run it on with `raytune-m2f resume`."
            )
        what = "has no weights" if any(trial.number == number for trial in self.trials) else "does not exist"
        numbers = ", ".join(str(trial.number) for trial in usable) or "none yet"
        raise StudyError(f"trial {number} of the study {self.directory} {what}. Trials with weights: {numbers}.")

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_csv(self) -> str:
        """A line for each trial below a line of names: number, state, every metric at the best report, every searched
        key, then the rest; empty where there is no value."""
        keys = list(dict.fromkeys(key for trial in self.trials for key in trial.values))
        scored = ("origin", "iteration", "max_iter", "last", "best_iteration", "images", "standard_error", "feasible")
        own = (*scored, "seconds", "cause", "directory", "checkpoint")
        file = io.StringIO()
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["number", "state", *self.metrics, *keys, *own, "symptoms"])
        for trial in self.trials:
            scores = [trial.best, *trial.others, *[None] * len(self.metrics)][: len(self.metrics)]
            values = [trial.values.get(key) for key in keys]
            rest = [getattr(trial, name) for name in own]
            table.writerow([trial.number, trial.state, *scores, *values, *rest, "; ".join(trial.symptoms)])
        return file.getvalue()

    @classmethod
    def from_json(cls, text: str) -> StudyStatus:
        """What `to_json` wrote; raises ValueError, KeyError or TypeError if it was another version's."""
        content = json.loads(text)
        found = {
            "trials": [TrialStatus(**trial) for trial in content["trials"]],
            "flat": Gain(**content["flat"]) if content.get("flat") else None,
            "insight": Insight.from_dict(content["insight"]) if content.get("insight") else None,
        }
        return cls(**{**content, **found})


class Progress(Protocol):
    """Who follows a study while it runs."""

    def update(self, status: StudyStatus) -> None:
        """Something has changed."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Nobody follows."""

    def update(self, status: StudyStatus) -> None:
        pass

    def note(self, text: str) -> None:
        pass


def study_status(directory: str | PathLike[str] | StudyDirectory, *, insight: bool = False) -> StudyStatus:
    """Read how a study stands; nothing is written, also when a driver runs.

    Args:
        insight: say what it has learned too, which takes a second or two.

    Raises:
        StudyError: there is no study.
    """
    study = StudyDirectory.at(directory)
    study.require()
    record = Record(study, StudyPlan.load(study.plan_file, only_shown=True), writable=False)
    status = StatusReader(record).read(study.driver())
    return replace(status, insight=insight_of(record)) if insight else status


class StatusReader:
    """Reads an open record again and again; what has ended is read once."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._ended: dict[int, TrialStatus] = {}

    def read(self, driver: str | None) -> StudyStatus:
        record = self._record
        trials = [self._read_trial(trial, driver) for trial in record.trials() if "prior" not in trial.user_attrs]
        settings = record.plan.settings
        return StudyStatus(
            directory=str(record.directory),
            metrics=list(settings.metrics),
            driver=driver,
            budget=settings.budget.model_dump(),
            usage=record.usage().model_dump(),
            best=next((trial.number for trial in _ranked(trials)), None),
            trials=trials,
            leaks_freed=record.leaks_freed,
            resumable=driver is None and has_work(record),
            seconds_left=None if driver is None else seconds_left(record),
            flat=record.flat,
        )

    def _read_trial(self, trial: FrozenTrial, driver: str | None) -> TrialStatus:
        known = self._ended.get(trial.number)
        if known is None:
            status = _trial_status(self._record, trial, driver is not None)
            if trial.state.is_finished():
                self._ended[trial.number] = status
            return status
        weights = self._record.directory.weights(trial.number)
        if known.checkpoint is not None and not weights.exists():  # of no more use, see tidy.py
            known = self._ended[trial.number] = replace(known, checkpoint=None)
        return known


def _ranked(trials: list[TrialStatus]) -> list[TrialStatus]:
    usable = (t for t in trials if t.checkpoint is not None and t.state != "failed" and t.feasible)
    scored = [(trial.images, trial.best, -trial.number, trial) for trial in usable if trial.best is not None]
    return [trial for *_, trial in sorted(scored, reverse=True)]


def _trial_status(record: Record, trial: FrozenTrial, driven: bool) -> TrialStatus:
    attributes = trial.user_attrs
    best: dict[str, Any] = attributes.get("best", {})
    study, weights = record.directory, record.directory.weights(trial.number)
    last = trial.last_step
    return TrialStatus(
        number=trial.number,
        state=_state(record, trial, driven),
        origin=attributes.get("origin"),
        iteration=last or 0,
        max_iter=record.index.max_iter,
        last=None if last is None else trial.intermediate_values[last],
        best=record.score(trial),
        best_iteration=attributes.get("best_iteration"),
        images=best.get("images", 0),
        others=[objective.value(best) for objective in record.plan.settings.objectives[1:] if best],
        standard_error=best.get(f"{record.plan.settings.objectives[0].text}_se"),
        feasible=not best or record.is_feasible(trial),
        values=record.values(trial),
        seconds=float(attributes.get("last", {}).get("seconds", 0.0)) - attributes.get("inherited", 0.0),
        cause=attributes.get("cause") or attributes.get("stopped"),
        directory=study.address_of(study.trial(trial.number)),
        checkpoint=study.address_of(weights) if best and weights.exists() else None,
        vitals=vitals_of(attributes.get("last", {})),
        symptoms=_symptoms(attributes, last or 0),
        climbed=attributes.get("climbed", {}).get(str(last)),
    )


def _symptoms(attributes: dict[str, Any], last: int) -> list[str]:
    found = symptoms(attributes.get("last", {}))
    lasting = [head for head, since in attributes.get("symptoms", {}).items() if since < last]
    return [f"{head_name(head)}: {found[head]}" for head in lasting if head in found]


def _state(record: Record, trial: FrozenTrial, driven: bool) -> str:
    if trial.state == TrialState.RUNNING:
        return "paused" if trial.number in record.index.paused else "running" if driven else "unfinished"
    return "stopped" if "stopped" in trial.user_attrs and trial.state != TrialState.FAIL else STATES[trial.state]


def relative(path: str) -> str:
    """A path as short as it can be typed here."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path


# What is still to do


def has_work(record: Record) -> bool:
    """Whether a driver would find something to train."""
    over = record.plan.settings.budget.spent(record.usage()) is not None
    return not over and bool(record.unfinished() or record.next_up() is not None)


def seconds_left(record: Record) -> float | None:
    """About how long a driver still has to work at the rate so far; None if there is no rate yet.

    The first limit of the budget that is reached counts. The rate is that of all iterations over all the time in which
    a driver ran, so it takes the trials that run at once into account.
    """
    return min(_each_limit(record), default=None)


def _each_limit(record: Record) -> Iterator[float]:
    budget, usage = record.plan.settings.budget, record.usage()
    if budget.seconds is not None:
        yield max(0.0, budget.seconds - usage.seconds)
    if not usage.seconds:
        return
    iterations = usage.iterations + sum(_since_report(record, number) for number in record.unfinished())
    if budget.iterations is not None and usage.iterations:
        yield max(0, budget.iterations - usage.iterations) * usage.seconds / usage.iterations
    if budget.gpu_hours is not None and usage.gpu_hours:
        yield max(0.0, budget.gpu_hours - usage.gpu_hours) * usage.seconds / usage.gpu_hours
    if budget.trials is not None and iterations:
        more = 0 if record.flat is not None else max(0, budget.trials - usage.trials)
        yield _iterations_left(record, more) * usage.seconds / iterations


def _iterations_left(record: Record, new_trials: int) -> float:
    """Of the trials that have begun and of `new_trials` more, which are taken to be as long as those that ended."""
    whole = record.index.max_iter
    trials = [trial for trial in record.trials() if is_here(trial)]
    ended = [_length(trial) for trial in trials if trial.state.is_finished()]
    typical = statistics.fmean(ended) if ended else _expected_length(record)
    unfinished = set(record.unfinished())
    done = [
        (trial.last_step or 0) + _since_report(record, trial.number) for trial in trials if trial.number in unfinished
    ]
    return new_trials * typical + sum((typical if far < typical else whole) - far for far in done)


def _expected_length(record: Record) -> float:
    """How long a trial is, while none has ended: one in `factor` goes on at each rung."""
    rungs, whole = record.index.rungs, record.index.max_iter
    if record.plan.settings.early_stopping.method not in ("asha", "promotion"):
        return whole
    length, share, last = 0.0, 1.0, 0
    for rung in (*rungs.iterations, whole):
        length += share * (rung - last)
        share, last = share / rungs.factor, rung
    return length


def _since_report(record: Record, number: int) -> int:
    """The iterations of a running trial since its last report, where its files are here."""
    told = read_progress(record.directory.trial(number))
    return 0 if told is None else max(0, told.done - (record.trial(number).last_step or 0))


def _length(trial: FrozenTrial) -> int:
    """The iterations that a trial has trained itself."""
    start: int = trial.user_attrs.get("start", 0)
    return max(0, (trial.last_step or 0) - start)
