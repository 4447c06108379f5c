"""Metrics and constraints as text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from raytune_m2f.errors import InputError, NonFiniteLossError, TrainingError
from raytune_m2f.training.objective import Constraint, Objective, finite_entry, quoted

REPORT = {"iteration": 10, "segm/AP": 40.0, "ripeness/accuracy": 0.8, "latency_ms": 30.0, "loss": 2, "host": "node-1"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("segm/AP", 40.0),
        ("-latency_ms", -30.0),
        ("segm/AP + 0.5*ripeness/accuracy", 40.4),
        ("segm/AP - 1e-1 * latency_ms", 37.0),
        ("segm/AP + -loss", 38.0),
        ("segm/AP - -2*loss", 44.0),
        (" 2*segm/AP ", 80.0),
        ("loss", 2.0),
    ],
)
def test_a_weighted_sum_of_entries(text: str, value: float) -> None:
    objective = Objective.parse(text)
    assert objective.text == text
    assert objective.value(REPORT) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "segm/AP +",
        "0.5*",
        "a*b",
        "segm/AP <= 3",
        "2**loss",
        "segm/AP  loss",
        "'segm/AP",
        "'a'b",
        "1e999*loss",
        "a\tb",
        "+",
        "segm/AP + + loss",
        "'a\\'",
    ],
)  # fmt: skip)
def test_what_is_no_metric_is_named(text: str) -> None:
    with pytest.raises(InputError, match=r"metric .*allowed: a key of the reports"):
        Objective.parse(text)


@pytest.mark.parametrize(
    ("text", "violation"),
    [("latency_ms<=50", -20.0), ("latency_ms <= 25", 5.0), ("segm/AP>=50", 10.0), ("segm/AP >= 4e1", 0.0)],
)
def test_by_how_much_a_bound_is_exceeded(text: str, violation: float) -> None:
    assert Constraint.parse(text).violation(REPORT) == violation


@pytest.mark.parametrize("text", ["", "memory_gb", "memory_gb<20", "memory_gb<=", "<=20", "memory_gb<=a", "1<=a<=2"])
def test_what_is_no_constraint_is_named(text: str) -> None:
    with pytest.raises(InputError, match="allowed is KEY<=NUMBER or KEY>=NUMBER"):
        Constraint.parse(text)


def test_a_key_that_reports_lack_names_what_they_have() -> None:
    with pytest.raises(TrainingError, match="no 'segm/AR'; it has host, iteration, latency_ms"):
        Objective.parse("segm/AR").value(REPORT)
    with pytest.raises(TrainingError, match="no 'memory_gb'"):
        Constraint.parse("memory_gb<=20").violation(REPORT)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_no_score(value: float) -> None:
    with pytest.raises(NonFiniteLossError, match=r"segm/AP is (nan|inf) at iteration 10"):
        Objective.parse("loss + segm/AP").value({**REPORT, "segm/AP": value})


@pytest.mark.parametrize("value", ["node-1", None])
def test_what_is_no_number_is_no_score(value: Any) -> None:
    with pytest.raises(TrainingError, match="which is no number"):
        finite_entry({"iteration": 10, "host": value}, "host")


NAMES = ["traffic light", "a + b", "a - b", "2*x", "a<=b", "a  b", "a\tb", "it's", '"q"', "'q'", "\\", "[r/g] :x:",
         "红绿灯 é",
         " a", "a ", "-a", "+", "- a", "a =b", "a'", "1", "a\nb"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prefix", ["segm/AP-", ""])
def test_every_name_of_a_category_can_be_searched_for_and_bounded(prefix: str, name: str) -> None:
    key = f"{prefix}{name}"
    report = {"iteration": 1, key: 3.0, "loss": 1.0}
    text = quoted(key)
    assert Objective.parse(text).terms == ((1.0, key),)
    assert Objective.parse(f"-2*{text} + loss - {text}").value(report) == -8.0
    assert Constraint.parse(f"{text}<=5").violation(report) == -2.0
    assert Constraint.parse(f"{text} >= 5").key == key


def test_a_name_of_several_words_needs_no_quotes() -> None:
    terms = Objective.parse("segm/AP-traffic light + 0.5*segm/AP-driver's seat - segm/AP-stop-sign").terms
    assert terms == ((1.0, "segm/AP-traffic light"), (0.5, "segm/AP-driver's seat"), (-1.0, "segm/AP-stop-sign"))
    assert quoted("segm/AP-traffic light") == "segm/AP-traffic light"
    assert quoted("segm/AP-a + b") == "'segm/AP-a + b'"
    assert Constraint.parse("segm/AP-traffic light>=30").key == "segm/AP-traffic light"


@pytest.mark.parametrize("value", ["node-1", None, [1], {}])
def test_what_is_no_number_never_becomes_a_score(value: Any) -> None:
    with pytest.raises(TrainingError, match="no number"):
        Objective.parse("host").value({"host": value})


@pytest.mark.parametrize("value", [10**400, 1e308])
def test_a_sum_beyond_all_numbers_is_no_score(value: Any) -> None:
    with pytest.raises(NonFiniteLossError):
        Objective.parse("loss + loss").value({"loss": value})
