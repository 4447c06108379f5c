"""What the end of a budget is kept for: the best of the trials that wait."""

from __future__ import annotations

import math
from typing import Any

from raytune_m2f.study.record.promotion import Promotion
from raytune_m2f.study.record.rungs import Rungs

WHOLE = 90


def promotion(
    first: dict[int, float], second: dict[int, float] | None = None, *, owed: set[int] | None = None, **limits: Any
) -> Promotion:
    """A study of trials of 90 iterations with rungs at 10 and 30, and the values of trials at each."""
    rungs = Rungs((10, 30), 3)
    for trial, value in first.items():
        rungs.note(trial, 10, value)
    for trial, value in (second or {}).items():
        rungs.note(trial, 30, value)
    may_start, by_promise = bool(limits.pop("may_start", True)), bool(limits.pop("by_promise", False))
    return Promotion(rungs, WHOLE, may_start=may_start, owed=owed or (), by_promise=by_promise, **limits)


def test_a_new_trial_starts_only_if_the_best_that_waits_can_still_reach_its_end() -> None:
    values, waiting = {0: 5.0, 1: 6.0}, {0: 10, 1: 10}
    assert promotion(values).next_up(waiting) == "new"
    assert promotion(values, left=90).next_up(waiting) == "new"  # 10 for its first rung, 80 for trial 1
    assert promotion(values, left=89).next_up(waiting) == 1
    assert promotion(values, each=89).next_up(waiting) == 1


def test_the_first_trials_start_whatever_the_budget() -> None:
    assert promotion({}, left=3).next_up({}) == "new"
    assert promotion({0: 1.0}, left=80).next_up({}, [(80, 80)]) is None  # the configuration needs all of it


def test_the_highest_rung_then_the_best_value_goes_on() -> None:
    first, second = {0: 5.0, 1: 4.0, 2: 6.0, 3: 1.0}, {0: 5.5}
    assert promotion(first, second, left=60).next_up({0: 30, 2: 10}) == 0
    assert promotion(first, left=80).next_up({0: 10, 2: 10}) == 2
    assert promotion(first, left=80).next_up({0: 10, 1: 10}) == 0


def test_one_that_is_behind_at_its_rung_comes_after_one_that_is_not() -> None:
    """Trial 1 went further, but two that have ended were better there."""
    first, second = {0: 9.0, 1: 6.0, 2: 7.0, 3: 8.0, 4: 5.0, 5: 4.0, 6: 3.0}, {0: 9.0, 1: 1.0, 3: 8.0}
    assert promotion(first, second, left=85).next_up({1: 30, 2: 10}) == 2
    assert promotion(first, second, left=70).next_up({1: 30, 2: 10}) == 1  # only it can reach its end


def test_a_promotion_that_could_not_reach_its_end_does_not_take_what_the_best_needs() -> None:
    first, second = {0: 5.0, 1: 4.0, 2: 1.0, 3: 0.0, 4: 0.0, 5: 0.0}, {0: 5.0}
    assert promotion(first, second).next_up({0: 30, 1: 10}) == 1
    assert promotion(first, second, left=79).next_up({0: 30, 1: 10}) == "new"
    assert promotion(first, second, left=69).next_up({0: 30, 1: 10}) == 0


def test_what_runs_is_counted_and_what_is_left_over_waits_for_it() -> None:
    values, waiting = {0: 5.0, 1: 6.0}, {0: 10, 1: 10}
    assert promotion(values, left=110).next_up(waiting, [(20, 80)]) == "new"
    assert promotion(values, left=109).next_up(waiting, [(20, 80)]) is None
    assert promotion(values, left=160, each=80).next_up(waiting, [(20, 80)]) == 1  # time is not shared, and runs out
    assert promotion(values, left=169).next_up({0: 10}, [(80, 80)]) == 0


def test_those_that_have_yet_to_come_to_a_rung_have_something_reserved() -> None:
    assert promotion({}, left=110).next_up({}, [(10, 90)]) == "new"
    assert promotion({}, left=99).next_up({}, [(10, 90)]) is None


def test_what_is_too_little_for_anybody_goes_to_the_best() -> None:
    assert promotion({0: 5.0, 1: 6.0}, left=30).next_up({0: 10, 1: 10}) == 1


def test_at_a_rung_a_trial_goes_on_if_it_is_the_best_that_could() -> None:
    values = {0: 5.0, 1: 6.0}
    assert not promotion(values).goes_on(1, 10, {0: 10})
    assert promotion(values, left=85).goes_on(1, 10, {0: 10})
    assert not promotion(values, left=85).goes_on(0, 10, {1: 10})
    assert promotion({**values, 2: 1.0}, left=500).goes_on(1, 10, {})
    assert not promotion({**values, 2: 1.0}, left=500).goes_on(1, 10, {}, [(50, 480)] * 9)


def test_once_all_trials_are_started_the_best_third_rounded_up_goes_on() -> None:
    values = {0: 5.0, 1: 4.0, 2: 3.0, 3: 2.0}
    full = promotion(values, may_start=False)
    assert full.next_up({0: 10, 1: 10, 2: 10}) == 0
    assert full.next_up({1: 10, 2: 10}) == 1
    assert full.next_up({2: 10, 3: 10}) is None
    assert promotion({0: 5.0, 1: 4.0}, may_start=False).goes_on(0, 10, {1: 10})
    assert promotion(values, may_start=False, left=40).next_up({1: 10, 2: 10}) == 1  # as far as it comes
    assert promotion(values, may_start=False, left=100).next_up({1: 10, 2: 10}, [(20, 80)]) is None


def test_what_is_owed_its_end_is_in_the_reserve_and_comes_after_the_best() -> None:
    values, waiting = {0: 5.0, 1: 6.0, 2: 5.5}, {0: 10, 1: 10, 2: 10}
    assert promotion({0: 5.0, 1: 6.0}, owed={0}, left=170).next_up({0: 10, 1: 10}) == "new"  # 10 + 80 + 80
    assert promotion({0: 5.0, 1: 6.0}, owed={0}, left=169).next_up({0: 10, 1: 10}) == 1
    assert promotion(values, owed={0}, left=89).next_up({0: 10, 2: 10}) == 0
    assert promotion(values, owed={0}, left=160).next_up({0: 10, 2: 10}) == 2
    assert promotion(values, owed={0}, left=79).next_up(waiting) == 1  # it can come to its end no more
    assert promotion({0: 5.0, 1: 6.0}, owed={1}, left=90).next_up({0: 10, 1: 10}) == "new"  # the best itself


def test_what_is_owed_its_end_gets_it_when_all_trials_are_started() -> None:
    full = promotion({0: 2.0, 1: 4.0, 2: 3.0}, owed={0}, may_start=False)
    assert full.next_up({0: 10, 1: 10, 2: 10}) == 1
    assert full.next_up({0: 10, 2: 10}) == 0
    assert full.next_up({2: 10}) is None


def test_without_a_rung_every_trial_is_whole() -> None:
    assert Promotion(Rungs((), 3), WHOLE, left=math.inf).next_up({}) == "new"
    assert Promotion(Rungs((), 3), WHOLE, left=100).next_up({}, [(80, 80)]) is None


def test_by_promise_and_number_no_more_leave_a_rung_than_are_its_best_whoever_they_are() -> None:
    """Two of six may leave; one that promised more has left and disappointed, and nobody follows it."""
    values = {0: 9.0, 1: 8.0, 2: 7.0, 3: 6.0, 4: 5.0, 5: 4.0}
    waiting = dict.fromkeys(range(1, 6), 10)
    closing: dict[str, Any] = {"may_start": False, "by_promise": True}
    disappointed = {**values, 0: 1.0}
    assert promotion(values, **closing).next_up(waiting) == 1  # trial 0 has left, and is the best
    assert promotion(disappointed, **closing).next_up(waiting) == 1
    del waiting[1]
    assert promotion(disappointed, **closing).next_up(waiting) is None
    assert not promotion(disappointed, **closing).goes_on(2, 10, dict.fromkeys((3, 4, 5), 10))
    assert promotion(disappointed, **closing, owed={4}).next_up(waiting) == 4  # but the baseline
    assert promotion(disappointed, **closing, left=200).next_up(waiting) == 2  # a budget is used up
    assert promotion(disappointed, may_start=False).next_up(waiting) == 2  # values at a rung do not change
