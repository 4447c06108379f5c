"""The record of truth: the Optuna study of a study directory, and the rules by which it is written.

What a trial did is written by the trial into its own directory first (reports, failure) and then told to Optuna; the
record can therefore always be brought up to date from the directories, and `settle` is the one rule for both a trial
that has just ended and one that a killed driver left behind. Attributes of a trial:

    origin              `config` or `published`: a known-good point that was tried first
    best, last          all metrics of the report with the best value, and of the latest
    best_iteration      iteration of the best
    gpus                GPUs that it holds while it trains
    stopped             why it was stopped early
    error_type, cause, log_tail   why it failed
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import StudyError
from raytune_m2f.training.context import Report
from raytune_m2f.training.metrics import read_reports
from raytune_m2f.training.trial_dir import STOP, check_metric, log_tail, read_failure
from raytune_m2f.tuning import journal
from raytune_m2f.tuning.asha import default_grace, stopped_at
from raytune_m2f.tuning.samplers import make_sampler
from raytune_m2f.tuning.search import known_good_points
from raytune_m2f.tuning.settings import Usage
from raytune_m2f.tuning.study import StudyDirectory, StudyPlan

STARTED = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Record:
    """The trials of a study, for its one driver (who holds the lock) or, without `writable`, for a reader."""

    def __init__(self, directory: StudyDirectory, plan: StudyPlan, *, writable: bool = True) -> None:
        if not writable and not directory.journal.exists():
            raise StudyError(f"the study {directory.root} has no trials yet: {directory.journal} is missing")
        self.directory = directory
        self.plan = plan
        opener = journal.open_for_writing if writable else journal.open_for_reading
        self._storage: BaseStorage = opener(directory.journal)
        self._study = _create_or_load(self._storage, directory.root.name)

    # What the record says

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)

    def trial(self, number: int) -> FrozenTrial:
        return self.trials()[number]

    def max_iter(self, trial: FrozenTrial) -> int:
        """Iterations of this trial; a search space may vary them."""
        return int(trial.params.get("SOLVER.MAX_ITER", self.plan.config.value("SOLVER.MAX_ITER")))

    def usage(self) -> Usage:
        trials = self.trials(*STARTED)
        sessions = self._study.user_attrs.get("sessions", {})
        return Usage(
            trials=len(trials),
            iterations=sum(trial.last_step or 0 for trial in trials),
            seconds=sum(sessions.values()),
            gpu_hours=sum(trained_seconds(trial) * trial.user_attrs.get("gpus", 0.0) for trial in trials) / 3600,
        )

    # Asking for trials

    def enqueue_known_good_points(self) -> list[str]:
        """Queue the points that go first, once per study; returns notes for the user."""
        points, notes = known_good_points(self.plan)
        known = {trial.user_attrs.get("origin") for trial in self.trials()}
        for origin, values in points.items():
            if origin not in known:
                self._study.enqueue_trial(values, user_attrs={"origin": origin})
        return notes

    def ask(self) -> int:
        """Start a new trial and return its number."""
        self._prepare_sampler(started=len(self.trials(*STARTED)))
        trial = self._study.ask()
        self.plan.space.suggest(trial)
        return trial.number

    def reconcile(self) -> list[int]:
        """Bring the record up to date with what trials left behind; returns the trials that have to go on."""
        unfinished = []
        # The driver may have been killed while it asked: that trial is the latest, and gets what it would have got.
        self._prepare_sampler(started=max(0, len(self.trials(*STARTED)) - 1))
        for trial in self.trials(TrialState.RUNNING):
            self.plan.space.suggest(optuna.trial.Trial(self._study, trial._trial_id))
            if self.settle(trial.number) is None:
                unfinished.append(trial.number)
        return unfinished

    def _prepare_sampler(self, started: int) -> None:
        settings = self.plan.settings
        conditional = self.plan.space.conditional
        self._study.sampler = make_sampler("tpe", settings.seed, started, settings.budget.trials, conditional)

    # Telling what trials did

    def absorb(self, number: int, report: Report) -> bool:
        """Note one report with a finite metric; one that is already known changes nothing.

        The intermediate value is written last: once it is there, so is all that belongs to it.

        Returns:
            True if the trial has to stop.
        """
        value = check_metric(report, self.plan.settings.metric)
        trial = self.trial(number)
        step = int(report["iteration"])
        if trial.state == TrialState.RUNNING and step not in trial.intermediate_values:
            self._note(trial, "last", _plain(report))
            if self._is_best(trial, value):
                self._note(trial, "best", _plain(report))
                self._note(trial, "best_iteration", step)
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
        return self._decide(number)

    def settle(self, number: int, *, ended: bool = False, crash: str | None = None) -> TrialState | None:
        """Replay what the trial's directory holds and tell Optuna how the trial ended.

        Args:
            ended: the trial's function has returned; it does not go on in any case.
            crash: the trial's process died; what is known of it.
        Returns:
            The state told, or None if the trial has to go on.
        """
        trial = self.trial(number)
        if trial.state.is_finished():
            return trial.state
        output_dir = self.directory.trial(number)
        failure = read_failure(output_dir) or self._replay(number)
        trial = self.trial(number)
        if (trial.last_step or 0) >= self.max_iter(trial):
            return self._tell(trial, TrialState.COMPLETE)
        if failure:
            return self._fail(trial, failure["error_type"], failure["cause"])
        if "stopped" in trial.user_attrs or (output_dir / STOP).exists():
            return self._tell(trial, TrialState.PRUNED)
        if crash is not None:
            return self._fail(trial, "TrialCrashed", crash)
        if ended and trial.last_step is None:
            return self._fail(trial, "NoReport", "the trial ended without a report")
        return self._tell(trial, TrialState.COMPLETE) if ended else None

    def note_gpus(self, number: int, gpus: float) -> None:
        """Note how many GPUs a trial holds from now on."""
        self._note(self.trial(number), "gpus", gpus)

    def note_session(self, name: str, seconds: float) -> None:
        """Note for how long the driver `name` has been driving."""
        sessions = self._study.user_attrs.get("sessions", {})
        self._study.set_user_attr("sessions", {**sessions, name: seconds})

    def _replay(self, number: int) -> dict[str, Any] | None:
        """Absorb the reports that Optuna was not told of; returns the failure if one of them is not finite."""
        for report in read_reports(self.directory.trial(number)):
            try:
                self.absorb(number, report)
            except Exception as error:
                return {"error_type": type(error).__name__, "cause": str(error)}
        trial = self.trial(number)
        if trial.intermediate_values:
            self._decide(number)  # the driver may have been killed between the report and the decision
        return None

    def _decide(self, number: int) -> bool:
        """Whether the trial has to stop at its latest report; the decision is in the record before it is acted on."""
        trial = self.trial(number)
        if "stopped" in trial.user_attrs:
            return True
        stopping = self.plan.settings.early_stopping
        baseline = trial.user_attrs.get("origin") == "config"  # runs to its end, for the others to be compared to
        if stopping.method == "none" or baseline or trial.state.is_finished():
            return False
        max_iter = self.max_iter(trial)
        rung = stopped_at(
            trial.intermediate_values,
            [other.intermediate_values for other in self.trials(*STARTED) if other.number != number],
            grace=stopping.grace_iterations or self._default_grace(),
            factor=stopping.reduction_factor,
            max_iter=max_iter,
        )
        if rung is None:
            return False
        self._note(trial, "stopped", f"early stopping at {rung} of {max_iter} iterations")
        return True

    def _default_grace(self) -> int:
        config = self.plan.config
        return default_grace(config.value("SOLVER.MAX_ITER"), config.value("TEST.EVAL_PERIOD"))

    def _is_best(self, trial: FrozenTrial, value: float) -> bool:
        best = best_value(trial)
        return best is None or value > best

    def _note(self, trial: FrozenTrial, key: str, value: Any) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, key, value)

    def _fail(self, trial: FrozenTrial, error_type: str, cause: str) -> TrialState:
        self._note(trial, "error_type", error_type)
        self._note(trial, "cause", cause)
        self._note(trial, "log_tail", log_tail(self.directory.trial(trial.number)))
        return self._tell(trial, TrialState.FAIL)

    def _tell(self, trial: FrozenTrial, state: TrialState) -> TrialState:
        """Not `Study.tell`: it would store the last report of a pruned trial, not its best."""
        best = best_value(trial)
        values = None if state == TrialState.FAIL or best is None else [best]
        self._storage.set_trial_state_values(trial._trial_id, state, values)
        return state


def best_value(trial: FrozenTrial) -> float | None:
    """The best report so far, whatever the trial's state."""
    return max(trial.intermediate_values.values(), default=None)


def trained_seconds(trial: FrozenTrial) -> float:
    """Time in which the trial trained and evaluated, up to its latest report; downtime does not count."""
    return float(trial.user_attrs.get("last", {}).get("seconds", 0.0))


def _create_or_load(storage: BaseStorage, name: str) -> optuna.Study:
    names: Sequence[str] = optuna.get_all_study_names(storage)
    if names:
        return optuna.load_study(study_name=names[0], storage=storage)
    return optuna.create_study(study_name=name, storage=storage, direction="maximize")


def _plain(report: Report) -> dict[str, Any]:
    """The report as JSON that any reader takes: no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in report.items()
    }
