"""The record of truth: the Optuna study of a study directory, and the rules by which it is written.

What a trial did is written by the trial into its own directory first (reports, failure) and then told to Optuna; the
record can therefore always be brought up to date from the directories, and `settle` is the one rule for both a trial
that has just ended and one that a killed driver left behind.

A stopped trial is PRUNED. With several metrics it is COMPLETE, for Optuna's samplers know no pruned trials there.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Iterable
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.errors import CheckpointError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import Point, StudyPlan, now
from raytune_m2f.study.record.attributes import fingerprint
from raytune_m2f.study.record.gains import GainChecks
from raytune_m2f.study.record.index import Index
from raytune_m2f.study.record.promotion import Promotion
from raytune_m2f.study.record.rungs import Rungs, judge
from raytune_m2f.study.record.samplers import MOST_CURVES, make_sampler
from raytune_m2f.study.record.storage import open_study
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.curves import numbered_curves
from raytune_m2f.study.search.insight import Gain
from raytune_m2f.study.search.promise import promises
from raytune_m2f.study.settings import Usage
from raytune_m2f.training.climb import climbed
from raytune_m2f.training.reports import Report, read_reports
from raytune_m2f.training.symptoms import head_name, symptoms
from raytune_m2f.training.trial_dir import FAILURE, STOP, log_tail, read_failure

FACTS = ("effective_lr", "micro_batch", "host")


class Record:
    """The trials of a study, for its one driver (who holds the lock) or, without `writable`, for a reader."""

    def __init__(self, directory: StudyDirectory, plan: StudyPlan, *, writable: bool = True) -> None:
        self.directory = directory
        self.plan = plan
        self.study = open_study(directory, plan.settings, writable=writable)
        self._storage = self.study._storage
        self._objectives = plan.settings.objectives
        self._bounds = plan.settings.bounds
        self.index = Index(plan)
        self._axes = Axes.of(plan.space, plan.space.own_values(plan.config))
        self._promised: tuple[Any, Rungs] | None = None  # and what it was made of
        for trial in self.trials():
            self.index.add(trial)

    # What the record says

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in one of these states, or all, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def trial(self, number: int) -> FrozenTrial:
        """One trial as it is now."""
        return self._storage.get_trial(self.index.ids[number])

    def unfinished(self) -> list[int]:
        """The trials that have begun, have not ended, and do not wait at a rung."""
        return [trial.number for trial in self.trials(TrialState.RUNNING) if trial.number not in self.index.paused]

    def usage(self) -> Usage:
        """What was used of the budget."""
        sessions = self.study.user_attrs.get("sessions", {})
        return self.index.usage(seconds=sum(sessions.values()))

    def score(self, trial: FrozenTrial) -> float | None:
        """The first metric at the best report so far, whatever the trial's state."""
        best = trial.user_attrs.get("best")
        return None if best is None else self._objectives[0].value(best)

    def rank(self, trial: FrozenTrial) -> tuple[int, float] | None:
        """What the best report is compared by: a score on more images counts more (TEST.SUBSET)."""
        best = trial.user_attrs.get("best")
        return None if best is None else self._rank(best)

    def _rank(self, report: Report) -> tuple[int, float]:
        return report.get("images", 0), self._objectives[0].value(report)

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        """What the trial is trained with, key by key: of a share not what was drawn, but what comes of it."""
        drawn = dict(trial.params) or dict(trial.system_attrs.get("fixed_params", {}))
        trained = trial.user_attrs.get("trained")  # the space may have been changed since
        return self.plan.space.resolve(drawn, self.plan.config) if trained is None else {**drawn, **trained}

    def is_feasible(self, trial: FrozenTrial) -> bool:
        """Whether the best report keeps every constraint."""
        best = trial.user_attrs.get("best", {})
        return all(bound.violation(best) <= 0 for bound in self._bounds)

    # Asking for trials

    def enqueue(self, points: Iterable[Point]) -> None:
        """Queue points that go first; what was queued before is not queued again."""
        trials = self.trials()
        origins = {trial.user_attrs.get("origin") for trial in trials}
        known = [trial.system_attrs["fixed_params"] for trial in trials if "fixed_params" in trial.system_attrs]
        for origin, values in points:
            once = origin in ("config", "published") and origin in origins
            if not once and values not in known:
                self.study.enqueue_trial(values, user_attrs={"origin": origin})
                known.append(values)

    def ask(self) -> int:
        """Start a new trial and return its number."""
        self._prepare_sampler(started=self.usage().trials)
        trial = self.study.ask()
        self._draw(trial)
        self.index.add(self._storage.get_trial(trial._trial_id))
        return trial.number

    def reconcile(self) -> list[int]:
        """Bring the record up to date with what trials left behind; returns the trials that have to go on."""
        running = self.trials(TrialState.RUNNING)
        for trial in running:
            if "asked" in trial.user_attrs:
                self.directory.pull_trial(trial.number)
                self.settle(trial.number)
        # The driver may have been killed while it asked: that trial is the latest, and gets what it would have got, for
        # the sampler now knows of the others what it knew then.
        self._prepare_sampler(started=max(0, self.usage().trials - 1))
        for trial in running:
            if "asked" not in trial.user_attrs:
                self._draw(optuna.trial.Trial(self.study, trial._trial_id))
                self.directory.pull_trial(trial.number)
                self.settle(trial.number)
        return self.unfinished()

    def _draw(self, trial: optuna.trial.Trial) -> None:
        drawn = self.plan.space.suggest(trial)
        trained = self.plan.space.resolve(drawn, self.plan.config)
        if trained != drawn:
            trial.set_user_attr("trained", {key: value for key, value in trained.items() if value != drawn[key]})
        trial.set_user_attr("asked", True)

    def _prepare_sampler(self, started: int) -> None:
        settings = self.plan.settings
        kind = "tpe" if settings.sampler == "auto" and len(settings.metrics) > 1 else settings.sampler
        self.study.sampler = make_sampler(kind, settings.seed, started, self._axes, self.index.max_iter)

    def next_up(self, *, but: Container[int] = ()) -> int | Literal["new"] | None:
        """What is trained next beside the trials that are under way: one that waits at a rung, a new one, or nothing.

        Args:
            but: trials that wait and cannot go on yet.
        """
        budget, usage = self.plan.settings.budget, self.usage()
        if budget.spent(usage) is not None:
            return None
        may_start = budget.allows_new_trial(usage) and self.flat is None
        if self.plan.settings.early_stopping.method != "promotion":
            return "new" if may_start else None
        waiting = {trial: rung for trial, rung in self.index.paused.items() if trial not in but}
        ending = self.index.paused.keys() - waiting.keys()
        return self._promotion(ending).next_up(waiting, self.index.ways())

    def _promotion(self, ending: Collection[int] = ()) -> Promotion:
        budget, usage = self.plan.settings.budget, self.usage()
        left, each = self.index.limits(budget, usage)
        may_start = (budget.trials is None or usage.trials < budget.trials) and self.flat is None
        rungs, owed = self.rungs, self.index.owed
        by_promise = rungs is not self.index.rungs
        return Promotion(rungs, self.index.max_iter, left, each, may_start, owed, by_promise, ending)

    @property
    def rungs(self) -> Rungs:
        """The rungs; where the search models curves, trials are compared there by what they promise."""
        settings, trials = self.plan.settings, self.trials()
        if settings.sampler != "auto" or len(settings.metrics) > 1 or self.index.started >= MOST_CURVES:
            return self.index.rungs
        known = tuple((trial.number, trial.last_step, trial.state) for trial in trials)
        if self._promised is None or self._promised[0] != known:
            found = promises(self._axes, numbered_curves(trials), self.index.max_iter)
            self._promised = known, self.index.rungs.by(found) if found else self.index.rungs
        return self._promised[1]

    # Telling what trials did

    def absorb(self, number: int, report: Report) -> bool:
        """Note one report with a finite metric; one that is already known changes nothing.

        The intermediate value is written last: once it is there, so is all that belongs to it.

        Returns:
            True if the trial has to stop.
        """
        value = self._objectives[0].value(report)
        for objective in self._objectives[1:]:
            objective.value(report)  # raises now, not when the trial ends
        for bound in self._bounds:
            bound.violation(report)
        trial = self.trial(number)
        step = int(report["iteration"])
        if trial.state == TrialState.RUNNING and step not in trial.intermediate_values:
            self._note_report(trial, report)
            self._note_climbed(trial, report, value)
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
            self.index.update(self.trial(number))
        return self._decide(number)

    def settle(self, number: int, *, ended: bool = False, crash: str | None = None) -> TrialState | None:
        """Replay what the trial's directory holds and tell Optuna how the trial ended.

        Args:
            ended: the trial's function has returned; it does not go on in any case, unless it waits at a rung.
            crash: the trial's process died; what is known of it.
        Returns:
            The state told, or None if the trial has to go on, waits, or could not write its checkpoint.
        """
        trial = self.trial(number)
        if trial.state.is_finished():
            return trial.state
        output_dir = self.directory.trial(number)
        failure = read_failure(output_dir)
        if failure is not None and failure["error_type"] == CheckpointError.__name__:  # no room: no fault of its own
            self.directory.unlink(output_dir / FAILURE)
            failure, ended = None, False
        failure = failure or self._replay(number)
        trial = self.trial(number)
        if (trial.last_step or 0) >= self.index.max_iter:
            return self._tell(trial, TrialState.COMPLETE)
        if failure:
            return self._fail(trial, **failure)
        if number in self.index.paused:
            return None
        if "stopped" in trial.user_attrs or (output_dir / STOP).exists():
            return self._tell(trial, TrialState.PRUNED)
        if crash is not None:
            return self._fail(trial, "TrialCrashed", crash)
        if ended and "best" not in trial.user_attrs:
            return self._fail(trial, "NoReport", "the trial ended without a report of its own")
        return self._tell(trial, TrialState.COMPLETE) if ended else None

    def go_on(self, number: int) -> None:
        """Let a trial that waits at a rung go on from its checkpoint."""
        trial = self.trial(number)
        self.note(trial, "rung", self.index.paused[number])
        self.directory.unlink(self.directory.trial(number) / STOP)
        self.note(trial, "paused", None)
        self.index.update(self.trial(number))

    def note(self, trial: FrozenTrial, key: str, value: Any) -> None:
        """Write a user attribute, if it changes."""
        if key not in trial.user_attrs or trial.user_attrs[key] != value:
            self._storage.set_trial_user_attr(trial._trial_id, key, value)

    def note_session(self, name: str, seconds: float) -> None:
        """Note for how long the driver `name` has been driving."""
        sessions = self.study.user_attrs.get("sessions", {})
        self.study.set_user_attr("sessions", {**sessions, name: seconds})

    def note_command(self, command: str) -> None:
        """Note what was typed to drive the study now."""
        given = self.study.user_attrs.get("commands", [])
        self.study.set_user_attr("commands", [*given, {"when": now(), "command": command}])

    def note_leaks(self, freed: int) -> None:
        """Count what ended trials had left in the cluster."""
        self.study.set_user_attr("leaks_freed", self.leaks_freed + freed)

    @property
    def leaks_freed(self) -> int:
        """How much `note_leaks` has counted."""
        return int(self.study.user_attrs.get("leaks_freed", 0))

    def _note_report(self, trial: FrozenTrial, report: Report) -> None:
        plain = _plain(report)
        inherited = trial.user_attrs.get("inherited", 0.0)
        if "parent" in trial.user_attrs and not trial.intermediate_values:  # its first report is the parent's last
            inherited = float(report["seconds"])
            self.note(trial, "inherited", inherited)
        self.note(trial, "last", plain)
        before, step = trial.user_attrs.get("symptoms", {}), int(report["iteration"])
        if (found := {head: before.get(head, step) for head in symptoms(plain)}) or before:
            self.note(trial, "symptoms", found)  # since which report each head has them
        for fact in FACTS:
            if fact in plain:
                self.note(trial, fact, plain[fact])
        gpu_seconds = (report["seconds"] - inherited) * trial.user_attrs.get("gpus", 0.0)
        self.note(trial, "gpu_seconds", round(gpu_seconds, 1))
        if self._is_best(trial, report):
            self.note(trial, "checkpoint", self.directory.address_of(self.directory.weights(trial.number)))
            self.note(trial, "best_iteration", int(report["iteration"]))
            self.note(trial, "best", plain)  # last: after a kill before it, the report is still the best

    def _note_climbed(self, trial: FrozenTrial, report: Report, value: float) -> None:
        """Note what is climbed at a report, where it is not the metric."""
        values = self.values(trial)
        score = climbed(self._objectives[0], report, values, {key: self.plan.config.value(key) for key in values})
        if score != value:
            self.note(trial, "climbed", {**trial.user_attrs.get("climbed", {}), str(int(report["iteration"])): score})

    def _is_best(self, trial: FrozenTrial, report: Report) -> bool:
        if int(report["iteration"]) <= trial.user_attrs.get("start", 0):
            return False  # it is the parent's
        best = self.rank(trial)
        return best is None or self._rank(report) > best

    def _replay(self, number: int) -> dict[str, Any] | None:
        """Absorb the reports that Optuna was not told of; returns the failure if one of them is not finite."""
        for report in read_reports(self.directory.trial(number)):
            try:
                self.absorb(number, report)
            except Exception as error:
                return {"error_type": type(error).__name__, "cause": str(error)}
        if self.trial(number).intermediate_values:
            self._decide(number)  # the driver may have been killed between the report and the decision
        return None

    def _decide(self, number: int) -> bool:
        """Whether the trial has to stop at its latest report; the decision is in the record before it is acted on."""
        trial = self.trial(number)
        if "stopped" in trial.user_attrs or number in self.index.paused:
            return True
        stopping = self.plan.settings.early_stopping
        method = stopping.method
        # runs to its end, for the others to be compared to; with `promotion` it waits, and is owed its end
        baseline = trial.user_attrs.get("origin") == "config" and method != "promotion"
        whole = (trial.last_step or 0) >= self.index.max_iter
        if baseline or whole or trial.state.is_finished():
            return False
        if stopping.dead_heads and (dead := self._dead_head(trial)):
            self.note(trial, "stopped", f"{dead} at {trial.last_step} of {self.index.max_iter} iterations")
            return True
        if method == "none":
            return False
        passed = trial.user_attrs.get("rung", 0)
        rung = self._rung_to_leave(trial, passed)
        if rung is None:
            self.note(trial, "rung", max([passed, *self.index.rungs.reached(number)]))
            return False
        if method == "promotion":
            self.note(trial, "paused", rung)
            self.index.update(self.trial(number))
            return True
        if method == "pbt":
            self.note(trial, "replaced_at", rung)
        what = "replaced by a better one" if method == "pbt" else "early stopping"
        self.note(trial, "stopped", f"{what} at {rung} of {self.index.max_iter} iterations")
        return True

    def _dead_head(self, trial: FrozenTrial) -> str:
        """What is wrong with a head that is dead for good, as far as one can know; empty if none is."""
        last, since = trial.last_step or 0, trial.user_attrs.get("symptoms", {})
        dead = [head for head, step in since.items() if step < last]
        if not dead or last < self.index.grace:
            return ""
        return f"{head_name(dead[0])} is dead ({symptoms(trial.user_attrs['last']).get(dead[0], '')})"

    @property
    def flat(self) -> Gain | None:
        """What further trials would bring, if they are not worth it (`--stop-when-flat`); see `gains.py`."""
        checks = GainChecks.of(self.study, self.plan) if self.plan.settings.stop_when_flat else None
        return None if checks is None else checks.flat

    def _rung_to_leave(self, trial: FrozenTrial, passed: int) -> int | None:
        """The rung at which a trial pauses, or ends, after its latest report; None if it goes on."""
        number, rungs, method = trial.number, self.index.rungs, self.plan.settings.early_stopping.method
        if method != "promotion":
            decided: int | None = trial.user_attrs.get("replaced_at")  # but a driver was killed right then
            return decided or judge(method, rungs, number, passed=passed)
        highest = max((rung for rung in rungs.reached(number) if rung > passed), default=None)
        others = self.index.paused, self.index.ways(without=number)
        return None if highest is None or self._promotion().goes_on(number, highest, *others) else highest

    def _fail(self, trial: FrozenTrial, error_type: str, cause: str, traceback: str = "") -> TrialState:
        self.note(trial, "error_type", error_type)
        self.note(trial, "cause", cause)
        self.note(trial, "fingerprint", fingerprint(error_type, cause, traceback))
        self.note(trial, "log_tail", log_tail(self.directory.trial(trial.number)))
        return self._tell(trial, TrialState.FAIL)

    def _tell(self, trial: FrozenTrial, state: TrialState) -> TrialState:
        """Not `Study.tell`: it would store the last report of a pruned trial, not its best."""
        best = trial.user_attrs.get("best")
        if best is None or state == TrialState.FAIL:
            values = None
        else:
            values = [objective.value(best) for objective in self._objectives]
            for bound in self._bounds:
                if bound.text in trial.constraints:  # a driver was killed right here
                    continue
                optuna.trial.Trial(self.study, trial._trial_id).set_constraint(bound.text, bound.violation(best))
            if len(values) > 1:
                state = TrialState.COMPLETE
        self._storage.set_trial_state_values(trial._trial_id, state, values)
        self.index.update(self.trial(trial.number))
        return state


def _plain(report: Report) -> dict[str, Any]:
    """The report as JSON that any reader takes: no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in report.items()
    }
