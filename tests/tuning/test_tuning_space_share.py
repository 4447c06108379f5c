"""Shares: the balance is searched, the sum is the configuration's."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.tuning.space import SearchSpace, load_space

LR, BATCH = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH"
CLASS, MASK, DICE = (f"MODEL.MASK_FORMER.{name}_WEIGHT" for name in ("CLASS", "MASK", "DICE"))
SHARE = {"type": "share", "low": 0.5, "high": 20.0}
LINES: dict[str, Any] = {
    CLASS: SHARE,
    LR: {"type": "loguniform", "low": 1e-5, "high": 1e-3},
    MASK: SHARE,
    DICE: SHARE,
}


def test_shares_have_the_sum_that_the_configuration_has() -> None:
    space = SearchSpace.from_dict(LINES)
    values = space.resolve({CLASS: 1.0, LR: 3e-4, MASK: 1.0, DICE: 4.0}, Config())
    assert values == {CLASS: 2.0, LR: 3e-4, MASK: 2.0, DICE: 8.0}
    doubled = space.resolve({CLASS: 2.0, LR: 3e-4, MASK: 2.0, DICE: 8.0}, Config())
    assert doubled == values, "the scale changes nothing"


@pytest.mark.parametrize("weights", [(2.0, 5.0, 5.0), (0.7, 3.3, 9.1), (1.1, 1.3, 1.7)])
def test_the_configurations_own_point_is_itself(weights: tuple[float, ...]) -> None:
    config = Config().with_values(dict(zip((CLASS, MASK, DICE), weights, strict=True)))
    space = SearchSpace.from_dict(LINES)
    own = space.own_values(config)
    assert space.resolve(own, config) == own


def test_a_share_that_a_trial_lacks_is_left_out_of_the_sum() -> None:
    lines = {**LINES, BATCH: {"type": "categorical", "choices": [4, 8]}, DICE: {**SHARE, "when": {BATCH: 4}}}
    space = SearchSpace.from_dict(lines)
    assert space.resolve({BATCH: 8, CLASS: 1.0, MASK: 1.0}, Config()) == {BATCH: 8, CLASS: 3.5, MASK: 3.5}


def test_without_shares_nothing_changes() -> None:
    params = {LR: 3e-4, CLASS: 1.0}
    lines = {LR: LINES[LR], CLASS: {**SHARE, "type": "loguniform"}}
    assert SearchSpace.from_dict(lines).resolve(params, Config()) == params


def test_one_share_is_none() -> None:
    with pytest.raises(SearchSpaceError, match=f"^s: {CLASS}: the only key of type share.*type: loguniform$"):
        SearchSpace.from_dict({CLASS: SHARE, LR: LINES[LR]}, source="s")


@pytest.mark.parametrize(
    ("key", "value"), [(DICE, "0.0"), ("SOLVER.LR_SCALING", "'none'"), ("SOLVER.AMP.ENABLED", "True")]
)
def test_what_has_no_share_to_begin_with_is_refused(key: str, value: str) -> None:
    config = Config().with_values({DICE: 0.0})
    with pytest.raises(SearchSpaceError, match=f"^s: {key}: the configuration's own value is {value}, allowed for a"):
        SearchSpace.from_dict({CLASS: SHARE, MASK: SHARE, key: SHARE}, source="s").check(config)


def test_the_check_is_of_resolved_values() -> None:
    """Neither end of the raw range is a valid value."""
    steep = {"type": "share", "low": 1e6, "high": 1e8}
    SearchSpace.from_dict({CLASS: steep, MASK: steep}, source="s").check(Config())


@pytest.mark.parametrize("name", ["default", "loss_weights"])
def test_packaged_loss_weights_are_shares(name: str) -> None:
    shares = [key for key, entry in load_space(name, Config()).entries.items() if entry.share]
    assert shares == [CLASS, MASK, DICE]
