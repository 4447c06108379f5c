"""What a study has to tell, from its record: ranks, what early stopping saved, failures by cause, commands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from optuna.trial import FrozenTrial

from raytune_m2f.evaluation.bootstrap import Z
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.learned import insight_of
from raytune_m2f.study.lines import train_command
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.index import is_here
from raytune_m2f.study.search.insight import LEAST_WHOLE, Insight
from raytune_m2f.study.status import StatusReader, StudyStatus, TrialStatus, relative
from raytune_m2f.training.trial_dir import CONFIG

BEST = 3
"""Trials whose predictions are shown, beside the configuration's own."""
ENDED_EARLY = ("stopped", "paused")


@dataclass(frozen=True)
class Saved:
    """What was not trained because trials were stopped early, or wait at a rung.

    Attributes:
        trials: how many.
        iterations: that they would still have had.
        share: of the iterations that all begun trials would have had, 0 to 1.
        hours: of training, each trial at its own pace [h].
        gpu_hours: the same times the GPUs of each trial; 0 on a CPU [h].
    """

    trials: int
    iterations: int
    share: float
    hours: float
    gpu_hours: float


@dataclass(frozen=True)
class Failure:
    """Trials that failed for one cause.

    Attributes:
        kind: class of the error.
        cause: what it said, in the first of them.
        trials: their numbers.
        log: the last lines of the first one's log, which is `log_file`.
    """

    kind: str
    cause: str
    trials: list[int]
    log: list[str]
    log_file: str


@dataclass(frozen=True)
class Content:
    """All of a study that its record tells.

    Attributes:
        trials: Optuna's, those of earlier studies and those that only wait in the queue left out.
        insight: what was learned; see `insight.py`.
        commands: what was typed to make the study, the oldest first: (time, command line).
        versions: of the packages that made it, by name.
    """

    study: StudyDirectory
    plan: StudyPlan
    status: StudyStatus
    trials: list[FrozenTrial]
    insight: Insight
    saved: Saved | None
    failures: list[Failure]
    commands: list[tuple[str, str]]
    versions: dict[str, str]

    @property
    def ranked(self) -> list[TrialStatus]:
        """The trials with a score that did not fail and keep the constraints, the best first, weights or not."""
        return ranked(self.status.trials)

    @property
    def own(self) -> TrialStatus | None:
        """The trial of the configuration's own values."""
        return next((trial for trial in self.status.trials if trial.origin == "config"), None)

    @property
    def shown(self) -> list[TrialStatus]:
        """The trials whose predictions are shown: the best ones, and the configuration's own."""
        best = self.ranked[:BEST]
        own = self.own
        return best if own is None or own in best else [*best, own]

    @property
    def keys(self) -> list[str]:
        """The searched keys, in the order of the space."""
        found = dict.fromkeys(key for trial in self.status.trials for key in trial.values)
        order = list(self.plan.space.entries)
        return sorted(found, key=lambda key: order.index(key) if key in order else len(order))

    @property
    def whole(self) -> int:
        """How many trials have trained to their end."""
        return sum(trial.iteration >= trial.max_iter and trial.best is not None for trial in self.status.trials)

    @property
    def correlation_missing(self) -> str | None:
        """Why nothing is known of how early scores rank; None where it is."""
        if self.insight.missing is not None:
            return self.insight.missing
        if self.insight.rungs:
            return None
        return f"{self.whole} trials have trained to their end, and {LEAST_WHOLE} are needed"

    def next_commands(self) -> list[tuple[str, str]]:
        """What can be done with the study: (what for, command line)."""
        study, best = quote(relative(self.status.directory)), self.status.best_trial
        found = [("how it stands now", f"raytune-m2f status {study}")]
        if best is not None:
            config, resources = relative(f"{best.directory}/{CONFIG}"), self.plan.settings.resources
            repeat = train_command(config, str(self.status.directory), best, resources)
            found += [
                ("export the best trial", f"raytune-m2f export {study} --output DIR"),
                ("train the best again under new seeds", f"raytune-m2f confirm {study}"),
                (f"repeat trial {best.number}, the best", repeat),
            ]
        if self.status.resumable:
            found.append(("go on with it", f"raytune-m2f resume {study}"))
        if self.plan.settings.sampler != "grid":  # which has tried all there is
            found.append(("search on, for as long again", f"raytune-m2f extend {study} {self._budget_again()}"))
        return found

    def _budget_again(self) -> str:
        """Options that raise every limit, as each of them would end the study at once, by as much as it was."""
        budget = self.plan.settings.budget
        limits = {
            "--trials": budget.trials,
            "--iterations": budget.iterations,
            "--time": None if budget.seconds is None else f"{max(1, round(budget.seconds))}s",
            "--gpu-hours": budget.gpu_hours,
        }
        return " ".join(f"{option} {limit}" for option, limit in limits.items() if limit is not None)


def read_content(directory: StudyDirectory) -> Content:
    """Read all that the record tells; nothing is written, also while a driver runs.

    Raises:
        StudyError: there is no study, or nothing of it was trained yet.
    """
    directory.require()
    plan = StudyPlan.load(directory.plan_file, only_shown=True)
    record = Record(directory, plan, writable=False)
    status = StatusReader(record).read(directory.driver())
    trials = [trial for trial in record.trials() if is_here(trial)]
    commands = record.study.user_attrs.get("commands", [])
    return Content(
        study=directory,
        plan=plan,
        status=status,
        trials=trials,
        insight=insight_of(record),
        saved=saved_by_stopping(status.trials, trials, plan.settings.early_stopping.method),
        failures=failures(trials, status),
        commands=[(entry["when"], entry["command"]) for entry in commands],
        versions=plan.versions,
    )


def ranked(trials: Iterable[TrialStatus]) -> list[TrialStatus]:
    """By the first metric, the best first; a score on all test images stands above every score on a subset."""
    usable = [t for t in trials if t.state != "failed" and t.feasible and t.best is not None]
    return sorted(usable, key=lambda trial: (-trial.images, -(trial.best or 0.0), trial.number))


def saved_by_stopping(trials: Sequence[TrialStatus], record: Sequence[FrozenTrial], method: str) -> Saved | None:
    """What early stopping saved; None where there is none, or trials are replaced and not stopped (pbt)."""
    if method in ("none", "pbt"):
        return None
    attributes: Mapping[int, Mapping[str, Any]] = {trial.number: trial.user_attrs for trial in record}
    begun = [trial for trial in trials if trial.state not in ("waiting", "failed")]
    early = [trial for trial in begun if trial.state in ENDED_EARLY and trial.iteration]
    left = {trial.number: trial.max_iter - trial.iteration for trial in early}
    paces = {trial.number: trial.seconds / trial.iteration / 3600 for trial in early}
    gpus = {trial.number: float(attributes[trial.number].get("gpus", 0.0)) for trial in early}
    whole = sum(trial.max_iter for trial in begun)
    return Saved(
        trials=len(early),
        iterations=sum(left.values()),
        share=sum(left.values()) / whole if whole else 0.0,
        hours=sum(left[number] * paces[number] for number in left),
        gpu_hours=sum(left[number] * paces[number] * gpus[number] for number in left),
    )


def failures(trials: Iterable[FrozenTrial], status: StudyStatus) -> list[Failure]:
    """The failed trials, those of one cause together, the most frequent first."""
    directories = {trial.number: trial.directory for trial in status.trials}
    groups: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if "error_type" in trial.user_attrs:
            groups.setdefault(trial.user_attrs.get("fingerprint", ""), []).append(trial)
    found = [
        Failure(
            kind=group[0].user_attrs["error_type"],
            cause=group[0].user_attrs.get("cause", ""),
            trials=[trial.number for trial in group],
            log=group[0].user_attrs.get("log_tail", []),
            log_file=f"{relative(directories[group[0].number])}/log.txt",
        )
        for group in groups.values()
    ]
    return sorted(found, key=lambda failure: -len(failure.trials))


def interval(trial: TrialStatus, metric: str) -> tuple[float, float] | None:
    """Where the interval of 95 % of a trial's score begins and ends; None where its standard error is not known.

    Of a metric, which is a percentage, it ends at 0 and 100; a weighted sum of several has other bounds.
    """
    if trial.best is None or trial.standard_error is None:
        return None
    low, high = trial.best - Z * trial.standard_error, trial.best + Z * trial.standard_error
    return (low, high) if " " in metric else (max(low, 0.0), min(high, 100.0))
