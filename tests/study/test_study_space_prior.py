"""Priors of a search space: what they may say, what they refuse, and that study.yaml keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_study import config, settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from raytune_m2f.errors import SearchSpaceError
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.space import SearchSpace, unread_priors
from raytune_m2f.study.space.entries import Prior, read_entry

LR, BATCH, SCHEDULE = "SOLVER.BASE_LR", "SOLVER.IMS_PER_BATCH", "SOLVER.LR_SCHEDULER_NAME"
RATES = {"type": "loguniform", "low": 1e-5, "high": 1e-3}
BATCHES = {"type": "int", "low": 4, "high": 16, "log": True}
SCHEDULES = {"type": "categorical", "choices": ["WarmupCosineLR", "WarmupPolyLR"]}


@st.composite
def lines(draw: st.DrawFn) -> dict[str, Any]:
    """A line of each type, with any prior that it may have."""
    low = draw(st.floats(1e-6, 1.0))
    numbers = draw(st.lists(st.integers(1, 99), min_size=2, max_size=5, unique=True))
    step = draw(st.integers(1, 5))
    kinds: list[tuple[dict[str, Any], st.SearchStrategy[Any]]] = [
        ({"type": "uniform", "low": low, "high": 10.0}, st.floats(low, 10.0)),
        ({"type": "share", "low": low, "high": 10.0}, st.floats(low, 10.0)),
        ({"type": "int", "low": 3, "high": 3 + 7 * step, "step": step}, st.integers(0, 7).map(lambda n: 3 + n * step)),
        ({"type": "int", "low": 2, "high": 64, "log": True}, st.integers(2, 64)),
        ({"type": "categorical", "choices": numbers}, st.sampled_from(numbers)),
        ({"type": "categorical", "choices": ["a", "b"]}, st.sampled_from(["a", "b"])),
    ]
    line: dict[str, Any]
    line, values = draw(st.sampled_from(kinds))
    prior = st.fixed_dictionaries(
        {}, optional={"center": values | st.just("config"), "confidence": st.sampled_from(["low", "medium", "high"])}
    )
    return {**line, "prior": draw(prior.filter(bool))}


@hypothesis_settings(max_examples=60, deadline=None)
@given(lines())
def test_a_prior_survives_study_yaml(line: dict[str, Any]) -> None:
    """And changes nothing of what can be drawn."""
    entry = read_entry(line)
    space = SearchSpace("s", {LR: entry, BATCH: entry})  # two, for one share alone is refused
    again = SearchSpace.from_dict(yaml.safe_load(yaml.safe_dump(space.to_dict())), source="s")
    assert again == space
    plain = read_entry({name: value for name, value in line.items() if name != "prior"})
    assert entry.distribution == plain.distribution
    assert entry.prior == Prior(**line["prior"]), "stated, also where it says what is supposed anyway"


def test_a_study_keeps_it_and_one_without_reads_as_before(tmp_path: Path) -> None:
    for line in (RATES, {**RATES, "prior": {"center": 1e-4, "confidence": "high"}}):
        plan = StudyPlan(config(), SearchSpace.from_dict({LR: line}), settings())
        plan.save(tmp_path / "study.yaml")
        assert yaml.safe_load((tmp_path / "study.yaml").read_text())["space"] == {LR: line}
        assert StudyPlan.load(tmp_path / "study.yaml").space.entries == plan.space.entries


def test_numbers_may_be_written_as_text() -> None:
    """PyYAML reads `1e-4` as text."""
    assert read_entry({**RATES, "prior": {"center": "1e-4"}}).prior == Prior(center=1e-4)


@pytest.mark.parametrize(
    ("line", "prior", "message"),
    [
        (RATES, "high", "got prior 'high', allowed: center, confidence or both, such as prior: {center: config, "),
        (RATES, {}, "got prior {}, allowed: center, confidence or both"),
        (RATES, None, "got prior None, allowed: center, confidence or both"),
        (RATES, {"centre": 1e-4}, "got 'centre', allowed for prior: center, confidence; did you mean center?"),
        (RATES, {"confidence": "hihg"}, "got prior confidence 'hihg', allowed: low, medium, high; did you mean high?"),
        (RATES, {"confidence": None}, "got prior confidence None, allowed: low, medium, high"),
        (RATES, {"center": 2e-3}, "got prior center 0.002, allowed: config, or a number from 1e-05 to 0.001"),
        (RATES, {"center": True}, "got prior center True, allowed: config, or a number from"),
        (RATES, {"center": None}, "got prior center None, allowed: config or a value of the range"),
        (RATES, {"center": float("nan")}, "got prior center nan, allowed: config, or a number"),
        (RATES, {"center": "konfig"}, "got prior center 'konfig', allowed: config, or a number"),
        (BATCHES, {"center": 5.5}, "got prior center 5.5, allowed: config, or a whole number from 4 to 16"),
        (
            {"type": "int", "low": 20, "high": 300, "step": 10},
            {"center": 25},
            "got prior center 25, allowed: config, or a whole number from 20 to 300 in steps of 10",
        ),
        (
            SCHEDULES,
            {"center": "WarmupPoly"},
            "got prior center 'WarmupPoly', allowed: config, or one of WarmupCosineLR, WarmupPolyLR; "
            "did you mean WarmupPolyLR?",
        ),
    ],
)
def test_a_wrong_prior_is_refused_with_what_is_allowed(line: dict[str, Any], prior: Any, message: str) -> None:
    with pytest.raises(SearchSpaceError) as caught:
        SearchSpace.from_dict({LR: {**line, "prior": prior}}, source="s")
    assert str(caught.value).startswith(f"s: {LR}: {message}")


def test_a_wrong_range_is_named_before_its_prior() -> None:
    with pytest.raises(ValueError, match="allowed: low < high"):
        read_entry({"type": "int", "low": 9, "high": 8, "prior": {"center": 3}})


def test_who_asks_another_sampler_is_told() -> None:
    believed = {**RATES, "prior": {"confidence": "high"}}
    space = SearchSpace.from_dict({LR: believed, BATCH: BATCHES}, source="mine.yaml")
    assert unread_priors(space, settings(sampler="auto")) == []
    assert unread_priors(SearchSpace.from_dict({LR: RATES}), settings(sampler="tpe")) == []
    for asked, who in (
        (settings(sampler="tpe"), "--sampler tpe"),
        (settings(sampler="auto", metrics=("segm/AP", "-loss")), "--sampler auto with several metrics"),
    ):
        (note,) = unread_priors(space, asked)
        assert note == (f"mine.yaml: the prior of {LR} has no effect: {who} reads none, only auto with one metric does")


@pytest.mark.parametrize(
    ("choices", "ordered"),
    [
        ([4, 8, 16], True),
        ([1.0, 0.3, 0.1], True),
        ([4, 16, 8], False),
        ([False, True], False),
        (["small", "large"], False),
        ([1, "2a"], False),
    ],
)
def test_numbers_that_rise_or_fall_are_ordered(choices: list[Any], ordered: bool) -> None:
    assert read_entry({"type": "categorical", "choices": choices}).is_ordered is ordered  # type: ignore[union-attr]
