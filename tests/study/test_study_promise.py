"""Who goes on at a rung where curves cross: who promises most, not who is ahead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import LR, MAX_ITER, PERIOD, leave_reports, new_study, open_record, report, settings

from raytune_m2f.study.record import Record
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.search.promise import promises
from raytune_m2f.study.settings import Budget, EarlyStopping
from raytune_m2f.study.space import SearchSpace

END = 80
AXES = Axes.of(SearchSpace.from_dict({LR: {"type": "loguniform", "low": 1e-5, "high": 1e-2}}), {LR: 1e-4})


def crossing(rate: float, iteration: int) -> float:
    """High rates begin late and end high; low ones begin at once and end low."""
    share = iteration / END
    return 40 * share**2 if rate > 1e-3 else (8 + 1e3 * rate) * share**0.3


def curve(rate: float, upto: int, **others: Any) -> Curve:
    return Curve({LR: rate}, {i: crossing(rate, i) for i in range(10, upto + 1, 10)}, **others)


def test_where_curves_cross_the_one_behind_promises_more_once_one_like_it_was_seen_to_its_end() -> None:
    known = [(0, curve(1e-4, END)), (1, curve(5e-3, END)), (2, curve(2e-4, 10)), (3, curve(4e-3, 10))]
    behind, ahead = known[3][1].best, known[2][1].best
    assert behind < ahead
    found = promises(AXES, known, END)
    assert found[3] > found[2]
    assert [found[0], found[1]] == pytest.approx([8.1, 40.0])  # they are at their ends


def test_what_is_known_less_promises_more_than_its_mean() -> None:
    """One far from all that were seen, with the same score as one beside them."""
    known = [(0, curve(1e-5, END)), (1, curve(1.2e-5, END)), (2, curve(1.1e-5, 10)), (3, curve(9e-4, 10))]
    found = promises(AXES, known, END)
    assert found[3] > found[2]


def test_too_few_scores_promise_nothing() -> None:
    assert promises(AXES, [(0, curve(1e-4, END)), (1, curve(1e-3, 10)), (2, Curve({LR: 1e-3}))], END) == {}


def test_earlier_studies_have_no_say_in_who_goes_on() -> None:
    own = [(5, curve(1e-4, END)), (7, curve(4e-3, 10)), (8, curve(2e-4, 10)), (9, Curve({LR: 1e-3}, state="failed"))]
    earlier = [(0, curve(1e-4, END, task="a")), (1, curve(5e-3, END, task="a")), (2, curve(3e-3, END, task="a"))]
    alone = promises(AXES, own, END)
    assert set(alone) == {5, 7, 8}
    assert promises(AXES, [*earlier, *own], END) == alone
    assert promises(AXES, [*earlier, *own[:2]], END) == {}, "too few of its own"


# In a study


RATES = [1e-4, 5e-3, 2e-4, 4e-3, 3e-4, 2.5e-4]


def opened(root: Path, sampler: str) -> Record:
    """A study of these rates in which each was trained to its first rung, and the first two to their ends."""
    stopping = EarlyStopping(method="promotion", grace_iterations=PERIOD, reduction_factor=3)
    budget = Budget(iterations=100 * MAX_ITER)
    record = open_record(new_study(root, settings(budget=budget, sampler=sampler, early_stopping=stopping)))
    record.enqueue([("user", {LR: rate}) for rate in RATES])
    for rate in RATES:
        number = record.ask()
        for iteration in range(PERIOD, 1 + (MAX_ITER if rate in RATES[:2] else PERIOD), PERIOD):
            if number in record.index.paused:
                record.go_on(number)
            leave_reports(record.directory.trial(number), {iteration: crossing(rate, iteration)})
            record.absorb(number, report(iteration, crossing(rate, iteration)))
        record.settle(number)
    return record


@pytest.mark.parametrize(("sampler", "best"), [("auto", 4e-3), ("random", 3e-4)])
def test_trials_are_promoted_by_promise_where_curves_are_modelled_and_else_by_value(
    tmp_path: Path, sampler: str, best: float
) -> None:
    record = opened(tmp_path, sampler)
    goes_on = set(range(2, len(RATES))) - set(record.index.paused) | {record.next_up()}
    assert RATES.index(best) in goes_on
    assert (RATES.index(4e-3) in goes_on) == (sampler == "auto")
    reader = Record(record.directory, record.plan, writable=False)  # it depends on the record alone
    assert reader.next_up() == record.next_up()
