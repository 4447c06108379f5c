"""More of a study: which limits are raised, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_study import LR, config, new_study, settings, space

from raytune_m2f.errors import StudyError
from raytune_m2f.study.plan import Extension, StudyPlan
from raytune_m2f.study.settings import Budget, Usage
from raytune_m2f.study.space import SearchSpace


def plan(**limits: Any) -> StudyPlan:
    return StudyPlan(config(), space(), settings(budget=Budget(**limits)))


def test_a_limit_is_raised_by_so_much() -> None:
    found = Extension(trials=5, seconds=60.0).of(plan(trials=4, seconds=100.0, gpu_hours=2.0), Usage(trials=4))
    assert found.settings.budget == Budget(trials=9, seconds=160.0, gpu_hours=2.0)


def test_a_limit_that_there_was_not_starts_from_what_is_used() -> None:
    usage = Usage(trials=4, iterations=300, seconds=50.0, gpu_hours=0.5)
    found = Extension(iterations=100, gpu_hours=1.0).of(plan(trials=9), usage)
    assert found.settings.budget == Budget(trials=9, iterations=400, gpu_hours=1.5)


def test_twice_is_the_sum() -> None:
    once = Extension(trials=2).of(plan(trials=4), Usage(trials=4))
    assert Extension(trials=3).of(once, Usage(trials=6)).settings.budget.trials == 9


def test_nothing_is_refused() -> None:
    with pytest.raises(StudyError, match="nothing to extend"):
        Extension().of(plan(trials=4), Usage(trials=4))


def test_a_limit_that_forbids_to_go_on_is_named() -> None:
    with pytest.raises(StudyError, match=r"the budget of 300 iterations is used up.*extend that limit too"):
        Extension(trials=2).of(plan(trials=4, iterations=300), Usage(trials=2, iterations=310))


def test_a_space_that_no_trial_would_use_is_refused() -> None:
    narrow = SearchSpace.from_dict({LR: {"type": "loguniform", "low": 1e-4, "high": 1e-3}})
    with pytest.raises(StudyError, match="the new space would not be used: give --trials too"):
        Extension(space=narrow).of(plan(trials=4), Usage(trials=4))
    assert Extension(space=narrow, trials=1).of(plan(trials=4), Usage(trials=4)).space == narrow
    assert Extension(space=narrow).of(plan(trials=4), Usage(trials=3)).settings.budget.trials == 4


def test_points_are_added_once(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    more = Extension(trials=1, points=(("earlier", {LR: 2e-3}),))
    for expected in (5, 6):
        more.of(StudyPlan.load(study.plan_file), Usage(trials=4)).save(study.plan_file)
        found = StudyPlan.load(study.plan_file)
        assert found.points == (("earlier", {LR: 2e-3}),)
        assert found.settings.budget.trials == expected


def test_a_grid_has_no_more_than_its_points() -> None:
    before = StudyPlan(config(), space(), settings(trials=1, sampler="grid"), (("grid", {LR: 1e-3}),))
    with pytest.raises(StudyError, match="the grid has 1 points; 2 trials are more than there are"):
        Extension(trials=1).of(before, Usage(trials=1))
    more = Extension(trials=1, points=(("grid", {LR: 2e-3}),)).of(before, Usage(trials=1))
    assert more.settings.budget.trials == len(more.points) == 2
