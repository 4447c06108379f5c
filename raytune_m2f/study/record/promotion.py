"""Promotion: which trial goes on next, and how the end of the budget is kept for the best of those that wait.

While the budget is large, a trial that is among the best floor(n / eta) of its rung goes on, and else a new one starts
(see `rungs.py`). A study that did so to its last iteration would end with a field of trials that wait and nothing at
its end. Therefore what the best trial that waits still needs to its end is held in reserve: a new trial starts only if
the reserve is left after its first rung, and one is promoted only if it could come to its end. If nothing of that is
possible, the study is closing: the best that wait go on, one after the other, as long as what is left brings them to
their end, and no new one starts. What one trial needs is held back, not what several do: on the table of the shapes
(random points, 400 studies each) that ends 0.7, 0.5, 0.2 and 0.0 AP above no reserve at all with a budget of 3, 5, 8
and 16 trainings; with the needs of two it is -2.7, 0.3, 0.1 and 0.0.

Some trials are *owed* their end: the configuration's own values wait at rungs like any other, but what is found has to
be compared to them. What they need is in the reserve too; they go on after the best, and before the next best.

What remains then is less than a first rung takes, and goes to the best trial that waits, however far it comes.

With a number of trials as the limit there is nothing to hold back. Once all are started, the best ceil(n / eta) of each
rung go on, or nobody would reach the end of a small study. Where trials are compared by what they promise
(`search/promise.py`), so many and no more leave a rung then, whoever they are: promises change, and each trial that has
disappointed would be followed by another until all are at their ends.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from raytune_m2f.study.record.rungs import Rungs

Way = tuple[int, int]
"""Of a trial that trains: iterations to its next rung, and to its end. Twice the end if that is owed to it."""


@dataclass(frozen=True)
class Promotion:
    """A study at one moment.

    Attributes:
        rungs: best values at the rungs.
        whole: iterations of a whole trial.
        left: iterations that all trials together may still train; infinite if only their number is limited.
        each: iterations that every trial may still train, however many train beside it: what a time limit allows.
        may_start: whether the number of trials allows a new one.
        owed: trials that are brought to their end in any case: the configuration's own values, the baseline.
        by_promise: whether the rungs compare trials by what they promise.
        ending: trials that will wait, but whose processes have not ended yet.
    """

    rungs: Rungs
    whole: int
    left: float = math.inf
    each: float = math.inf
    may_start: bool = True
    owed: Collection[int] = ()
    by_promise: bool = False
    ending: Collection[int] = ()

    def next_up(self, waiting: Mapping[int, int], running: Collection[Way] = ()) -> int | Literal["new"] | None:
        """What a free place is given to: a trial that waits, a new one, or, as long as others run, none.

        Args:
            waiting: trial -> the rung at which it waits.
            running: the trials that train.
        """
        free = self._free(running, to_end=not self.may_start)
        promoted = self.rungs.to_promote(self._with_room(waiting), rounded_up=not self.may_start)
        if promoted is not None and self._fits(promoted, waiting, free):
            return promoted
        best_first = self._best_first(waiting)
        if self.may_start:
            if not (waiting or running) or self._first_rung + self._reserve(best_first, running, free) <= free:
                return "new"
            free = self._free(running, to_end=True)
        fitting = [trial for trial in best_first if self._fits(trial, waiting, free)]
        alone = [] if running else best_first  # nobody else needs what is left
        return next(iter(fitting or alone), None)

    def goes_on(self, trial: int, rung: int, waiting: Mapping[int, int], running: Collection[Way] = ()) -> bool:
        """Whether a trial that has come to a rung goes on without a pause.

        Args:
            waiting, running: the others.
        """
        free = self._free(running, to_end=not self.may_start)
        everyone = {**waiting, trial: rung}
        among_best = self.rungs.among_best(trial, rung, rounded_up=not self.may_start)
        among_best = among_best and trial in self._with_room(everyone)
        return (among_best and self._fits(trial, everyone, free)) or self.next_up(everyone, running) == trial

    def _free(self, running: Collection[Way], *, to_end: bool) -> float:
        """What a trial that starts now may train, once those that train have come to their next rung or their end."""
        return min(self.left - sum(way[to_end] for way in running), self.each)

    def _reserve(self, best_first: Mapping[int, int], running: Collection[Way], free: float) -> float:
        """What the best trial that waits, and those that are owed it, need to their ends.

        If none waits, what the first that will needs.
        """
        for best, rung in best_first.items():
            return self._need(rung) + self._owed(best_first, free, but=best)
        return min((end - rung for rung, end in running if rung < end), default=0.0)

    def _fits(self, trial: int, waiting: Mapping[int, int], free: float) -> bool:
        """Whether a trial that waits can come to its end, and those that are owed it after it."""
        return self._need(waiting[trial]) + self._owed(waiting, free, but=trial) <= free

    def _owed(self, waiting: Mapping[int, int], free: float, *, but: int) -> float:
        """What those need that are owed their end, as far as they can still come to it."""
        needs = [self._need(rung) for trial, rung in waiting.items() if trial in self.owed and trial != but]
        return sum(need for need in needs if need <= free)

    def _best_first(self, waiting: Mapping[int, int]) -> dict[int, int]:
        """Those that wait: the best ceil(n / eta) of each rung before the others, the highest rung, the best value."""
        bars = {rung: self.rungs.bar(rung, rounded_up=True) for rung in set(waiting.values())}

        def merit(trial: int) -> tuple[bool, int, float, int]:
            rung = waiting[trial]
            value = self.rungs.value(trial, rung)
            return value >= bars[rung], rung, value, -trial

        room = self._with_room(waiting)
        chosen = [n for n in waiting if self.may_start or (merit(n)[0] and n in room) or n in self.owed]
        return {trial: waiting[trial] for trial in sorted(chosen, key=merit, reverse=True)}

    def _with_room(self, waiting: Mapping[int, int]) -> dict[int, int]:
        """Those that wait at a rung which others may leave; see above."""
        if not self.by_promise or math.isfinite(min(self.left, self.each)):
            return dict(waiting)
        gone = {
            rung: sum(waiting.get(trial) != rung for trial in {*self.rungs.at(rung)} - {*self.owed, *self.ending})
            for rung in set(waiting.values())
        }
        most = {rung: self.rungs.count(rung, rounded_up=not self.may_start) for rung in gone}
        return {trial: rung for trial, rung in waiting.items() if gone[rung] < most[rung] or trial in self.owed}

    def _need(self, rung: int) -> int:
        return self.whole - rung

    @property
    def _first_rung(self) -> int:
        return self.rungs.iterations[0] if self.rungs.iterations else self.whole
