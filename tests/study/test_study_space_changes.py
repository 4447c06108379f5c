"""Which changes of the space a study survives, held against Optuna itself."""

from __future__ import annotations

import warnings
from typing import Any

import optuna
import pytest

from raytune_m2f.study.record.samplers import make_sampler
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.space import SearchSpace, space_changes

LR, BATCH, QUERIES = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
DECAY, CLASS, MASK = "SOLVER.WEIGHT_DECAY", "MODEL.MASK_FORMER.CLASS_WEIGHT", "MODEL.MASK_FORMER.MASK_WEIGHT"
OLD: dict[str, dict[str, Any]] = {
    LR: {"type": "loguniform", "low": 1e-5, "high": 1e-3},
    BATCH: {"type": "categorical", "choices": [4, 8]},
    QUERIES: {"type": "int", "low": 20, "high": 300, "step": 10},
}
SHARES = {key: {"type": "share", "low": 0.5, "high": 10.0} for key in (CLASS, MASK)}
WEIGHTS = {key: {"type": "loguniform", "low": 0.5, "high": 10.0} for key in (CLASS, MASK)}


def space(lines: dict[str, Any]) -> SearchSpace:
    return SearchSpace.from_dict(lines, source="new.yaml")


def study_of(old: SearchSpace) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    go_on(study, old, 8)
    return study


def go_on(study: optuna.Study, with_space: SearchSpace, trials: int, kind: str = "tpe") -> None:
    for _ in range(trials):
        study.sampler = make_sampler(kind, 0, len(study.trials), Axes.of(with_space, {}), 1)
        trial = study.ask()
        values = with_space.suggest(trial)
        assert with_space.contains(values) == []
        study.tell(trial, float(values.get(QUERIES, 0)))


def changed(key: str, **line: Any) -> dict[str, Any]:
    return {**OLD, key: line}


@pytest.mark.parametrize(
    "new",
    [
        changed(LR, type="loguniform", low=1e-7, high=1.0),
        changed(LR, type="loguniform", low=1e-4, high=2e-4, points=3),
        changed(LR, **OLD[LR], prior={"center": 1e-4, "confidence": "high"}),
        changed(QUERIES, type="int", low=7, high=500),
        changed(DECAY, type="uniform", low=0.0, high=0.1),
        changed(QUERIES, type="int", low=20, high=300, step=10, when={BATCH: 4}),
        {key: OLD[key] for key in (LR, QUERIES)},
        {**OLD, **SHARES},
    ],
)
@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_a_study_goes_on_after_an_allowed_change(new: dict[str, Any], kind: str) -> None:
    assert space_changes(space(OLD), space(new)) == []
    study = study_of(space(OLD))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        go_on(study, space(new), 6, kind)


@pytest.mark.parametrize(
    ("new", "line"),
    [
        (
            changed(BATCH, type="categorical", choices=[4, 8, 16]),
            f"new.yaml: {BATCH}: got choices [4, 8, 16], but choices are fixed for a study, in their order; "
            "allowed: {type: categorical, choices: [4, 8]}, or a new study",
        ),
        (changed(BATCH, type="categorical", choices=[8, 4]), "got choices [8, 4], but choices are fixed"),
        (
            changed(BATCH, type="int", low=4, high=8),
            "got whole numbers on a linear scale, but the trials so far drew a",
        ),
        (
            changed(LR, type="uniform", low=1e-5, high=1e-3),
            "got numbers on a linear scale, but the trials so far drew numbers on a logarithmic scale; "
            "allowed: type: loguniform with any low and high, or a new study",
        ),
        (
            changed(QUERIES, type="int", low=20, high=300, log=True),
            "but the trials so far drew whole numbers on a linear",
        ),
        (changed(QUERIES, type="uniform", low=20, high=300), "allowed: type: int with any low and high"),
    ],
)
def test_what_optuna_refuses_is_refused_with_what_is_allowed(new: dict[str, Any], line: str) -> None:
    (found,) = space_changes(space(OLD), space(new))
    assert line in found
    with pytest.raises(ValueError, match=r"Cannot set different|does not support dynamic value space"):
        go_on(study_of(space(OLD)), space(new), 6)


def test_a_weight_does_not_become_a_share_nor_the_other_way_round() -> None:
    assert len(space_changes(space(WEIGHTS), space(SHARES))) == 2
    (first, _) = space_changes(space(SHARES), space(WEIGHTS))
    assert first == (
        f"new.yaml: {CLASS}: it was a share, so that the values of the trials so far would mean others; "
        "allowed: type: share with any low and high, or a new study"
    )


def test_a_key_that_comes_back_is_compared_with_what_was_drawn() -> None:
    study = study_of(space({**OLD, **SHARES}))
    linear = changed(LR, type="uniform", low=1e-5, high=1e-3)
    between = space({QUERIES: OLD[QUERIES]})
    assert space_changes(between, space({**OLD, **SHARES}), trials=study.get_trials()) == []
    assert len(space_changes(between, space(linear), trials=study.get_trials())) == 1


def test_cmaes_keeps_its_ranges() -> None:
    wide = space(changed(LR, type="loguniform", low=1e-7, high=1e-3))
    (line,) = space_changes(space(OLD), wide, "cmaes")
    assert line == "new.yaml: the ranges were changed, but cmaes keeps its own for good; start a new study"
    more = space(changed(DECAY, type="categorical", choices=[0.0, 0.1]))
    assert space_changes(space(OLD), more, "cmaes") == []
    assert space_changes(space(OLD), space(changed(LR, **OLD[LR], prior={"confidence": "high"})), "cmaes") == []
