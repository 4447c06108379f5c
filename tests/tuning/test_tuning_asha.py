from __future__ import annotations

import random

import pytest

from raytune_m2f.tuning.asha import default_grace, rungs, stopped_at


def curve(*values: float) -> dict[int, float]:
    """Reports at iterations 10, 20, ..."""
    return {10 * (i + 1): value for i, value in enumerate(values)}


def stop(own: dict[int, float], *others: dict[int, float], factor: int = 3) -> int | None:
    return stopped_at(own, others, grace=10, factor=factor, max_iter=80)


def test_the_default_grace_is_a_ninth_in_whole_evaluations() -> None:
    assert default_grace(max_iter=80, eval_period=10) == 10
    assert default_grace(max_iter=900, eval_period=30) == 120
    assert default_grace(max_iter=80, eval_period=0) == 80  # one report, at the end: no rung


def test_rungs_grow_by_the_factor_and_end_before_the_end() -> None:
    assert list(rungs(10, 3, 80)) == [10, 30]
    assert list(rungs(10, 2, 80)) == [10, 20, 40]
    assert list(rungs(80, 3, 80)) == []


def test_the_first_trial_is_never_stopped() -> None:
    assert stop(curve(0.0)) is None


def test_a_trial_below_the_best_third_is_stopped_at_a_rung() -> None:
    assert stop(curve(1.0), curve(2.0)) == 10
    assert stop(curve(3.0), curve(2.0)) is None
    assert stop(curve(1.0), curve(2.0), curve(0.0), curve(0.5)) is None  # second of four: ceil(4 / 3) = 2


def test_ties_go_on() -> None:
    assert stop(curve(0.0), curve(0.0), curve(0.0), curve(0.0)) is None


def test_nothing_happens_between_rungs() -> None:
    assert stop(curve(0.0, 0.0), curve(9.0, 9.0)) is None  # 20 lies between the rungs 10 and 30


def test_a_rung_is_judged_at_the_first_report_after_it() -> None:
    assert stop({40: 1.0}, {40: 2.0}) == 10  # the first report is late: both rungs are judged by it


def test_trials_are_compared_by_their_best_value_up_to_the_rung() -> None:
    assert stop(curve(1.0, 5.0, 0.0), curve(2.0, 3.0, 4.0)) is None
    assert stop(curve(1.0, 5.0, 0.0), curve(2.0, 3.0, 6.0)) == 30
    assert stop(curve(1.0), curve(0.5, 9.0)) is None  # what the other did later does not count here


def test_nobody_is_stopped_at_the_end() -> None:
    assert stop(curve(*[0.0] * 8), curve(*[9.0] * 8)) is None


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_against_an_oracle_on_random_curves(factor: int) -> None:
    """Asynchronous arrivals in random order; an oracle that keeps the rungs' values as the paper's algorithm does."""
    rng = random.Random(factor)
    values = {trial: [rng.random() for _ in range(8)] for trial in range(12)}
    reported: dict[int, dict[int, float]] = {trial: {} for trial in values}
    at_rung: dict[int, list[float]] = {rung: [] for rung in rungs(10, factor, 80)}
    alive = set(values)
    stopped = 0
    while alive:
        trial = rng.choice(sorted(alive))
        step = 10 * (len(reported[trial]) + 1)
        reported[trial][step] = values[trial][step // 10 - 1]
        others = [curve for other, curve in reported.items() if other != trial]
        decision = stopped_at(reported[trial], others, grace=10, factor=factor, max_iter=80)
        expected = None
        if step in at_rung:
            best = max(reported[trial].values())
            at_rung[step].append(best)
            ranked = sorted(at_rung[step], reverse=True)
            if best < ranked[-(-len(ranked) // factor) - 1]:
                expected = step
        assert decision == expected
        if decision is not None or step == 80:
            alive.remove(trial)
            stopped += decision is not None
    assert 4 <= stopped < 12
