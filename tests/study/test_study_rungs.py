"""Decisions at rungs, each against a hand-written oracle on recorded curves."""

from __future__ import annotations

import random

import pytest

from raytune_m2f.study.record.promotion import Promotion
from raytune_m2f.study.record.rungs import Rungs, default_grace, judge, rung_iterations

Curve = dict[int, float]


def curve(*values: float) -> Curve:
    """Reports at iterations 10, 20, ..."""
    return {10 * (i + 1): value for i, value in enumerate(values)}


def rungs_of(*curves: Curve, method: str = "asha", factor: int = 3) -> Rungs:
    found = Rungs(rung_iterations(method, 10, factor, 80), factor)
    for trial, reports in enumerate(curves):
        for step, value in reports.items():
            found.note(trial, step, value)
    return found


def stop(own: Curve, *others: Curve, method: str = "asha", factor: int = 3) -> int | None:
    """The decision on the last trial that reports."""
    found = rungs_of(*others, own, method=method, factor=factor)
    return judge(method, found, len(others), passed=0)


def goes_on(found: Rungs, trial: int, rung: int = 10) -> bool:
    """Promotion's decision, with any number of trials to come."""
    return Promotion(found, 80).goes_on(trial, rung, {})


def test_the_default_grace_is_a_ninth_in_whole_evaluations() -> None:
    assert default_grace(max_iter=80, eval_period=10) == 10
    assert default_grace(max_iter=900, eval_period=30) == 120
    assert default_grace(max_iter=900, eval_period=30, method="pbt") == 180
    assert default_grace(max_iter=80, eval_period=0) == 80  # one report, at the end: no rung


def test_rungs_grow_by_the_factor_and_end_before_the_end() -> None:
    assert rung_iterations("asha", 10, 3, 80) == (10, 30)
    assert rung_iterations("promotion", 10, 2, 80) == (10, 20, 40)
    assert rung_iterations("asha", 80, 3, 80) == ()
    assert rung_iterations("pbt", 20, 3, 80) == (20, 40, 60)
    assert rung_iterations("none", 10, 3, 80) == ()


def test_the_first_trial_is_never_stopped() -> None:
    assert stop(curve(0.0)) is None
    assert stop(curve(0.0), method="pbt") is None


def test_a_trial_below_the_best_third_is_stopped_at_a_rung() -> None:
    assert stop(curve(1.0), curve(2.0)) == 10
    assert stop(curve(3.0), curve(2.0)) is None
    assert stop(curve(1.0), curve(2.0), curve(0.0), curve(0.5)) is None  # second of four: ceil(4 / 3) = 2


def test_ties_go_on() -> None:
    assert stop(curve(0.0), curve(0.0), curve(0.0), curve(0.0)) is None
    assert stop(curve(0.0), curve(0.0), curve(0.0), method="pbt") is None


def test_nothing_happens_between_rungs() -> None:
    assert stop(curve(0.0, 0.0), curve(9.0, 9.0)) is None  # 20 lies between the rungs 10 and 30


def test_a_late_report_is_judged_at_every_rung_that_it_reaches() -> None:
    assert stop({40: 1.0}, {40: 2.0}) == 10


def test_trials_are_compared_by_their_best_value_up_to_the_rung() -> None:
    assert stop(curve(1.0, 5.0, 0.0), curve(2.0, 3.0, 4.0)) is None
    assert stop(curve(1.0, 5.0, 0.0), curve(2.0, 3.0, 6.0)) == 30
    assert stop(curve(1.0), curve(0.5, 9.0)) is None  # what the other did later does not count here


def test_nobody_is_stopped_at_the_end() -> None:
    assert stop(curve(*[0.0] * 8), curve(*[9.0] * 8)) is None


def test_a_rung_that_was_passed_is_not_judged_again() -> None:
    found = rungs_of(curve(2.0), curve(1.0))
    assert judge("asha", found, 1, passed=0) == 10
    assert judge("asha", found, 1, passed=10) is None


def test_a_known_report_changes_nothing() -> None:
    found = rungs_of(curve(2.0, 3.0, 4.0), curve(1.0, 1.0, 9.0))
    found.note(1, 10, 99.0)
    assert found.reached(1) == (30,)
    assert not found.among_best(1, 10, rounded_up=True)


def test_what_a_trial_took_over_is_not_its_own() -> None:
    found = rungs_of(curve(1.0), curve(2.0), curve(3.0))
    found.note(3, 10, 3.0, start=10)
    assert found.reached(3) == ()
    assert found.best(10) == [2]
    found.note(3, 30, 5.0, start=10)
    assert found.reached(3) == (30,)


def test_a_paused_trial_goes_on_once_others_are_worse() -> None:
    found = rungs_of(curve(5.0), method="promotion")
    assert not goes_on(found, 0)
    assert found.to_promote({0: 10}, rounded_up=False) is None
    found.note(1, 10, 4.0)
    found.note(2, 10, 3.0)
    assert found.to_promote({0: 10, 1: 10, 2: 10}, rounded_up=False) == 0
    assert found.to_promote({1: 10, 2: 10}, rounded_up=False) is None  # 0 has gone on, and still counts at the rung


def test_the_worst_give_their_place_to_the_best() -> None:
    found = rungs_of(curve(5.0), curve(3.0), curve(4.0), method="pbt")
    assert found.best(10) == [0]
    assert [judge("pbt", found, trial, passed=0) for trial in range(3)] == [None, 10, None]


class Oracle:
    """The rungs' values kept as lists, and sorted: as the papers write it."""

    def __init__(self, iterations: tuple[int, ...], factor: int) -> None:
        self.at: dict[int, list[tuple[float, int]]] = {rung: [] for rung in iterations}
        self.factor = factor

    def rank(self, rung: int, trial: int) -> tuple[int, int]:
        """Place from the top, the best is 0, and how many there are."""
        ranked = sorted(self.at[rung], reverse=True)
        return [other for _, other in ranked].index(trial), len(ranked)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_asha_against_an_oracle_on_random_curves(factor: int) -> None:
    rng = random.Random(factor)
    values = {trial: [rng.random() for _ in range(8)] for trial in range(12)}
    reported: dict[int, Curve] = {trial: {} for trial in values}
    found = Rungs(rung_iterations("asha", 10, factor, 80), factor)
    oracle = Oracle(found.iterations, factor)
    alive, stopped = set(values), 0
    while alive:
        trial = rng.choice(sorted(alive))
        step = 10 * (len(reported[trial]) + 1)
        reported[trial][step] = values[trial][step // 10 - 1]
        found.note(trial, step, reported[trial][step])
        expected = None
        if step in oracle.at:
            oracle.at[step].append((max(reported[trial].values()), trial))
            place, count = oracle.rank(step, trial)
            if place >= -(-count // factor):
                expected = step
        decision = judge("asha", found, trial, passed=0)
        assert decision == expected
        if decision is not None or step == 80:
            alive.remove(trial)
            stopped += decision is not None
    assert 4 <= stopped < 12


@pytest.mark.parametrize("factor", [2, 3])
def test_promotion_against_an_oracle_on_random_curves(factor: int) -> None:
    """The paper's get_job: the best 1 / eta of the highest rung that were not promoted yet, else a new trial."""
    rng = random.Random(factor)
    values = [[rng.random() for _ in range(8)] for _ in range(30)]
    found = Rungs(rung_iterations("promotion", 10, factor, 80), factor)
    oracle = Oracle(found.iterations, factor)
    started, paused, done = 0, dict[int, int](), set[int]()
    promoted: dict[int, set[int]] = {rung: set() for rung in found.iterations}
    progress: dict[int, int] = {}
    for _ in range(200):
        number = found.to_promote(paused, rounded_up=False)
        expected = None
        for rung in sorted(oracle.at, reverse=True):
            ready = [
                trial
                for _, trial in sorted(oracle.at[rung], reverse=True)
                if trial not in promoted[rung] and oracle.rank(rung, trial)[0] < len(oracle.at[rung]) // factor
            ]
            if ready:
                expected = ready[0]
                promoted[rung].add(expected)
                break
        assert number == expected
        if number is None:
            if started == len(values):
                break
            number, started = started, started + 1
        paused.pop(number, None)
        while number not in paused and number not in done:  # it trains until it waits or is done
            step = progress[number] = progress.get(number, 0) + 10
            found.note(number, step, values[number][step // 10 - 1])
            if step in oracle.at:
                best = max(values[number][: step // 10])
                oracle.at[step].append((best, number))
            rung_reached = step if step in oracle.at and not goes_on(found, number, step) else None
            if step in oracle.at:
                place, count = oracle.rank(step, number)
                assert rung_reached == (None if place < count // factor else step)
                if rung_reached is None:
                    promoted[step].add(number)
            if rung_reached is not None:
                paused[number] = rung_reached
            elif step == 80:
                done.add(number)
    assert started == len(values)
    assert done
    assert len(done) < len(values) / factor
