"""What the driver of a study does at each event; knows nothing of Ray, which only calls it (see `ray_tune.py`)."""

from __future__ import annotations

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.drive.population import enqueue_successor, take_over
from raytune_m2f.drive.tidy import Tidy, set_aside_others
from raytune_m2f.errors import CheckpointError
from raytune_m2f.launch.nodes import MOST_LOSSES
from raytune_m2f.study.learned import becomes_flat
from raytune_m2f.study.record import Record
from raytune_m2f.training.reports import Report
from raytune_m2f.training.trial_dir import STOP, read_failure

FAILURES_ALIKE = 3  # so many trials that fail in the same way, and none that does not, stop the study
SESSION_NOTE_S = 30.0  # the wall time used is noted at least so often, so that a kill forgets no more of it


class Room(Protocol):
    """What the cluster has room for; see `resources.py`."""

    def has_room(self, running: int) -> bool:
        """Whether one trial more than those that run has room."""

    def shrink_to(self, running: int) -> None:
        """No further trial is to come."""


class Driver:
    """Hands out trials, notes their reports and ends, and says when the study has to stop.

    Attributes:
        halted: why the study was stopped before its trials were done, None if it was not. The trials that ran stay
            unfinished in the record and can be continued.
        breaker: the failed trial that made the circuit breaker trip, if that is why.
        error: what went wrong in the driver itself.
        finished: no trial will be handed out any more.
        running: the trials that were handed out and have not ended.
    """

    def __init__(
        self,
        record: Record,
        unfinished: list[int],
        *,
        gpus_per_trial: float = 0.0,
        room: Room | None = None,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.record = record
        self.halted: str | None = None
        self.breaker: FrozenTrial | None = None
        self.error: Exception | None = None
        self.finished = False
        self._unfinished = deque(unfinished)
        self._room = room
        self._crashes: Counter[int] = Counter()
        self._losses: dict[int, tuple[int | None, int]] = {}
        self.running: set[int] = set()
        self._gpus = gpus_per_trial
        self._on_change, self._clock = on_change, clock
        self._tidy = Tidy(record)
        self._ended: list[FrozenTrial] = []
        self._session = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
        self._started = self._noted = clock()

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Ray Tune pickles what calls the driver into files of its own, which are never read back."""
        return str, ("a study is resumed from its record",)

    def next_trial(self) -> tuple[int, dict[str, Any]] | None:
        """The next trial to run, and its values for the configuration.

        Those left behind, by an earlier driver or by a process that died, come first, then one that waits at a rung and
        may go on, then a new one.

        Returns:
            None if there is none now, or no room. If there will be none any more, `finished` is set.
        """
        if self._room is not None and self.halted is None and not self._room.has_room(len(self.running)):
            return None
        number = self._next_number()
        while number is not None and not take_over(self.record, number):
            self.on_end(number)
            number = self._next_number()
        if number is None:
            self.finished = self.halted is not None or not self.running  # what runs may have to be handed out again
            if self._room is not None:
                self._room.shrink_to(len(self.running))
            return None
        self.running.add(number)
        self.record.note(self.record.trial(number), "gpus", self._gpus)
        self._on_change()
        self.record.directory.commit()  # a driver after a kill knows which trials ran
        return number, self.record.values(self.record.trial(number))

    def _next_number(self) -> int | None:
        record = self.record
        if self.halted is not None:
            return None
        if self._unfinished:
            return self._unfinished.popleft()
        # not one that was just told to pause: its process still runs, and has not yet read the stop request
        chosen = record.next_up(but=self.running)
        settings = record.plan.settings
        if chosen == "new" and settings.stop_when_flat and becomes_flat(record):
            chosen = record.next_up(but=self.running)  # those that wait have their last chance
        if chosen is None:
            return None
        if chosen != "new":
            record.go_on(chosen)
            return chosen
        if settings.early_stopping.method == "pbt":
            enqueue_successor(record)
        number = record.ask()
        set_aside_others(record, number)
        return number

    def on_report(self, number: int, report: Report) -> None:
        """Note a report; if the trial has to stop, leave the request in its directory, where it looks next."""
        stop = self.record.absorb(number, report)
        self.record.directory.pull_trial(number, contents=False)
        if stop:
            self._ask_to_stop(number)
        self.tick(note=True)
        self._on_change()

    def _ask_to_stop(self, number: int) -> None:
        study = self.record.directory
        study.commit()  # the decision, before it is acted on
        (study.trial(number) / STOP).touch()
        study.push(study.trial(number) / STOP)

    def on_end(self, number: int, crash: str | None = None, *, lost: bool = False) -> None:
        """Note how a trial ended; with `crash`, its process died, and it is handed out again, `crash_retries` times.

        If it died because its node was `lost`, that is no failure of the trial.
        """
        self.running.discard(number)
        self.record.directory.pull_trial(number)
        failure = read_failure(self.record.directory.trial(number))
        goes_on = crash is not None and self._may_go_on(number, lost)
        if lost and not goes_on:
            crash = f"its node was lost {MOST_LOSSES + 1} times in a row without a report in between"
        if self.record.settle(number, ended=not goes_on, crash=None if goes_on else crash) is not None:
            trial = self.record.trial(number)
            self._tidy.ended(trial)
            self._check_breaker(trial)
        elif failure is not None:  # the next trials would have no more room than this one
            self.error = CheckpointError(failure["cause"])
            self.halted = "a checkpoint could not be written"
        elif goes_on and number not in self.record.index.paused:
            self._unfinished.append(number)
        self.tick(note=True)
        self._on_change()

    def _may_go_on(self, number: int, lost: bool) -> bool:
        """Whether a trial whose process died is tried again."""
        if not lost:
            self._crashes[number] += 1
            return self._crashes[number] <= self.record.plan.settings.crash_retries
        trial = self.record.trial(number)
        self.record.note(trial, "node_losses", trial.user_attrs.get("node_losses", 0) + 1)
        step, in_a_row = self._losses.get(number, (None, 0))
        in_a_row = in_a_row + 1 if step == trial.last_step else 1
        self._losses[number] = trial.last_step, in_a_row
        return in_a_row <= MOST_LOSSES

    def tick(self, *, note: bool = False) -> None:
        """Count the time and check the budget; called several times a second."""
        now = self._clock()
        if note or now - self._noted > SESSION_NOTE_S:
            self.record.note_session(self._session, round(now - self._started, 3))
            self._noted = now
        self.record.directory.commit(soon=True)
        if self.halted is None and (over := self._over_budget(now - self._noted)) is not None:
            self.halted = over
            self._settle_whole()

    def _over_budget(self, since_noted: float) -> str | None:
        budget = self.record.plan.settings.budget
        if not (budget.iterations or budget.seconds or budget.gpu_hours):
            return None
        usage = self.record.usage()
        usage = usage.model_copy(update={"seconds": usage.seconds + since_noted})
        return budget.spent(usage)

    def _settle_whole(self) -> None:
        """Note the end of those that trained their last iteration with the last of the budget: no process tells it."""
        for number in self.running:
            if (self.record.trial(number).last_step or 0) >= self.record.index.max_iter:
                self.record.settle(number)

    def _check_breaker(self, trial: FrozenTrial) -> None:
        if len(self._ended) >= FAILURES_ALIKE:
            return  # only the first ones are judged: a study that works is not stopped for a bad corner of its space
        self._ended.append(trial)
        kinds = {trial.user_attrs.get("fingerprint") for trial in self._ended}
        all_failed = all(trial.state == TrialState.FAIL for trial in self._ended)
        if self.halted is None and len(self._ended) == FAILURES_ALIKE and all_failed and len(kinds) == 1:
            self.halted = f"the first {FAILURES_ALIKE} trials all failed with {trial.user_attrs['error_type']}"
            self.breaker = trial
