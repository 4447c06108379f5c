"""Conditional keys: asked for only where their condition is met, checked as they occur, and refused by name."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from raytune_m2f.config import Config
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.study.space import SearchSpace, check_space

SCHEDULE, POWER, ENDING = "SOLVER.LR_SCHEDULER_NAME", "SOLVER.POLY_LR_POWER", "SOLVER.POLY_LR_CONSTANT_ENDING"
AMP, LR = "SOLVER.AMP.ENABLED", "SOLVER.BASE_LR"
POLY = "WarmupPolyLR"
LINES: dict[str, dict[str, Any]] = {  # the child first: the order in the file does not matter
    POWER: {"type": "uniform", "low": 0.5, "high": 2.0, "when": {SCHEDULE: POLY}},
    SCHEDULE: {"type": "categorical", "choices": ["WarmupMultiStepLR", "WarmupCosineLR", POLY]},
    LR: {"type": "loguniform", "low": 1e-5, "high": 1e-3},
}
CHAIN: dict[str, dict[str, Any]] = {
    ENDING: {"type": "uniform", "low": 0.0, "high": 0.5, "when": {AMP: True}},
    AMP: {"type": "categorical", "choices": [True, False], "when": {SCHEDULE: [POLY, "WarmupCosineLR"]}},
    SCHEDULE: LINES[SCHEDULE],
}


def config(schedule: str) -> Config:
    return Config.from_dict({"SOLVER": {"LR_SCHEDULER_NAME": schedule}})


@pytest.mark.parametrize("lines", [LINES, CHAIN])
def test_a_key_is_suggested_only_where_its_condition_is_met(lines: dict[str, Any]) -> None:
    space = SearchSpace.from_dict(lines)
    check_space(space, Config())
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(40):
        trial = study.ask()
        values = space.suggest(trial)
        assert values == trial.params
        assert space.suggest(optuna.trial.Trial(study, trial._trial_id)) == values, "nothing changes if asked again"
        assert space.contains(values) == []
        assert (POWER in values) == (POWER in lines and values[SCHEDULE] == POLY)
        assert (AMP in values) == (AMP in lines and values[SCHEDULE] != "WarmupMultiStepLR")
        assert (ENDING in values) == bool(values.get(AMP))
        seen.add(frozenset(values))
    assert len(seen) == (2 if lines is LINES else 3)


def test_own_values_leave_out_what_is_not_searched() -> None:
    space = SearchSpace.from_dict(LINES)
    assert space.own_values(config(POLY)) == {SCHEDULE: POLY, LR: 1e-4, POWER: 0.9}
    assert space.own_values(config("WarmupCosineLR")) == {SCHEDULE: "WarmupCosineLR", LR: 1e-4}
    assert space.conditional == {POWER}


def test_a_value_without_its_condition_lies_outside() -> None:
    space = SearchSpace.from_dict(LINES)
    assert space.contains({SCHEDULE: POLY, POWER: 1.0}) == []
    assert space.contains({SCHEDULE: POLY, POWER: 3.0}) == [POWER]
    assert space.contains({SCHEDULE: "WarmupCosineLR", POWER: 1.0}) == [POWER]
    assert space.contains({POWER: 1.0}) == [POWER]


def test_only_combinations_that_occur_are_checked() -> None:
    """The smaller MAX_SCALE lies below every MIN_SCALE, but is never drawn with one."""
    low, high = "INPUT.MIN_SCALE", "INPUT.MAX_SCALE"
    lines: dict[str, Any] = {
        high: {"type": "categorical", "choices": [0.5, 2.0]},
        low: {"type": "uniform", "low": 0.6, "high": 1.0, "when": {high: 2.0}},
    }
    check_space(SearchSpace.from_dict(lines), Config())
    lines[low]["when"] = {high: [2.0, 0.5]}
    with pytest.raises(SearchSpaceError, match=r"which is above INPUT\.MAX_SCALE"):
        check_space(SearchSpace.from_dict(lines), Config())


def test_a_clash_of_two_conditional_keys_is_found() -> None:
    low, high = "INPUT.MIN_SCALE", "INPUT.MAX_SCALE"
    lines = {
        low: {"type": "uniform", "low": 0.1, "high": 1.0, "when": {SCHEDULE: [POLY]}},
        high: {"type": "uniform", "low": 0.5, "high": 2.0, "when": {SCHEDULE: ["WarmupCosineLR", POLY]}},
        SCHEDULE: LINES[SCHEDULE],
    }
    with pytest.raises(SearchSpaceError, match=r"got 1\.0, which is above INPUT\.MAX_SCALE"):
        check_space(SearchSpace.from_dict(lines), Config())


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ({"SOLVER.LR_SCHEDULR_NAME": POLY}, f"which is not searched; allowed: {SCHEDULE}; did you mean {SCHEDULE}"),
        ({LR: 1e-4}, f"got {LR}, which is no categorical key; allowed: {SCHEDULE}"),
        ({SCHEDULE: "WarmupPoly"}, f"got {SCHEDULE} 'WarmupPoly', allowed: .*; did you mean {POLY}"),
        ({SCHEDULE: [POLY, "x"]}, f"got {SCHEDULE} 'x', allowed: WarmupMultiStepLR, WarmupCosineLR, {POLY}$"),
    ],
)
def test_a_condition_that_cannot_be_met_is_refused(when: dict[str, Any], message: str) -> None:
    with pytest.raises(SearchSpaceError, match=f"^s: {POWER}: when: .*{message}"):
        SearchSpace.from_dict({**LINES, POWER: {**LINES[POWER], "when": when}}, source="s")
    without = {POWER: {**LINES[POWER], "when": when}, LR: LINES[LR]}
    with pytest.raises(SearchSpaceError, match="allowed: a key of type categorical; there is none"):
        SearchSpace.from_dict(without, source="s")


def test_a_circle_is_refused() -> None:
    lines = {**CHAIN, SCHEDULE: {**CHAIN[SCHEDULE], "when": {AMP: True}}}
    with pytest.raises(SearchSpaceError, match=r"a circle: (\S+) -> \S+ -> \1; let one of them be searched always"):
        SearchSpace.from_dict(lines)
    alone = {AMP: {"type": "categorical", "choices": [True, False], "when": {AMP: True}}}
    with pytest.raises(SearchSpaceError, match=f"a circle: {AMP} -> {AMP}"):
        SearchSpace.from_dict(alone)
