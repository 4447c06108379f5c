"""Promotion: which trial goes on next, and how the end of the budget is kept for the best of those that wait.

While the budget is large, a trial that is among the best floor(n / eta) of its rung goes on, and else a new one starts
(see `rungs.py`). A study that did so to its last iteration would end with a field of trials that wait and nothing at its
end. Therefore something is held in reserve: what the best trial that waits still needs to reach its end. A trial starts,
or goes on, only if the reserve is left after it has come to its first rung, or to its end. If no trial may do so, the
study is *closing*: the best that wait go on, one after the other, as long as what is left brings them to their end, and
no new one starts. It is the need of one trial, not of several, that is held back: of the others those that are worth it
were brought to their end on the way, and each one more would cost the search nine new trials.

What remains then is less than a first rung takes, and goes to the best trial that waits, however far it comes.

With a number of trials as the limit there is nothing to hold back. Once all are started, the best ceil(n / eta) of each
rung go on, or nobody would reach the end of a small study.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from raytune_m2f.study.record.rungs import Rungs

Way = tuple[int, int]
"""Of a trial that trains: iterations to its next rung, and to its end (twice the same if it will not wait again)."""


@dataclass(frozen=True)
class Promotion:
    """A study at one moment.

    Attributes:
        rungs: best values at the rungs.
        whole: iterations of a whole trial.
        left: iterations that all trials together may still train; infinite if only their number is limited.
        each: iterations that every trial may still train, however many train beside it: what a time limit allows.
        may_start: whether the number of trials allows a new one.
    """

    rungs: Rungs
    whole: int
    left: float = math.inf
    each: float = math.inf
    may_start: bool = True

    def next_up(self, waiting: Mapping[int, int], running: Collection[Way] = ()) -> int | Literal["new"] | None:
        """What a free place is given to: a trial that waits, a new one, or, as long as others run, none.

        Args:
            waiting: trial -> the rung at which it waits.
            running: the trials that train.
        """
        free = self._free(running, to_end=not self.may_start)
        promoted = self.rungs.to_promote(waiting, rounded_up=not self.may_start)
        if promoted is not None and self._need(waiting[promoted]) <= free:
            return promoted
        best_first = self._best_first(waiting)
        if self.may_start:
            if not (waiting or running) or self._first_rung + self._reserve(best_first, running) <= free:
                return "new"
            free = self._free(running, to_end=True)
        fitting = [trial for trial in best_first if self._need(waiting[trial]) <= free]
        return next(iter(fitting or ([] if running else best_first)), None)

    def goes_on(self, trial: int, rung: int, waiting: Mapping[int, int], running: Collection[Way] = ()) -> bool:
        """Whether a trial that has come to a rung goes on without a pause.

        Args:
            waiting, running: the others.
        """
        free = self._free(running, to_end=not self.may_start)
        if self.rungs.among_best(trial, rung, rounded_up=not self.may_start) and self._need(rung) <= free:
            return True
        return self.next_up({**waiting, trial: rung}, running) == trial

    def _free(self, running: Collection[Way], *, to_end: bool) -> float:
        """What a trial that starts now may train, once those that train have come to their next rung or their end."""
        return min(self.left - sum(way[to_end] for way in running), self.each)

    def _reserve(self, best_first: Mapping[int, int], running: Collection[Way]) -> float:
        """What the best trial that waits needs to its end; if none does, the first that will."""
        for rung in best_first.values():
            return self._need(rung)
        return min((end - rung for rung, end in running if rung < end), default=0.0)

    def _best_first(self, waiting: Mapping[int, int]) -> dict[int, int]:
        """Those that wait: the best ceil(n / eta) of each rung before the others, the highest rung, the best value."""
        bars = {rung: self.rungs.bar(rung, rounded_up=True) for rung in set(waiting.values())}

        def merit(trial: int) -> tuple[bool, int, float, int]:
            rung = waiting[trial]
            value = self.rungs.value(trial, rung)
            return value >= bars[rung], rung, value, -trial

        chosen = waiting if self.may_start else [t for t in waiting if merit(t)[0]]
        return {trial: waiting[trial] for trial in sorted(chosen, key=merit, reverse=True)}

    def _need(self, rung: int) -> int:
        return self.whole - rung

    @property
    def _first_rung(self) -> int:
        return self.rungs.iterations[0] if self.rungs.iterations else self.whole
