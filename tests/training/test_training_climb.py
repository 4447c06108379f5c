"""What is climbed: the metric, and the training loss where the metric is flat."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.training.climb import FLAT, climbed, may_be_flat
from raytune_m2f.training.objective import Objective

FORMER = "MODEL.MASK_FORMER"
CE, MASK = f"{FORMER}.CLASS_WEIGHT", f"{FORMER}.MASK_WEIGHT"


def report(ap: float, **losses: Any) -> dict[str, Any]:
    return {"iteration": 10, "segm/AP": ap, "segm/AP_all": ap / 2, **losses}


def score(
    told: dict[str, Any],
    values: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    metric: str = "segm/AP",
) -> float:
    return climbed(Objective.parse(metric), told, values or {}, own or {})


def test_a_metric_that_says_something_is_climbed_itself() -> None:
    assert score(report(FLAT, loss=5.0)) == FLAT
    assert score(report(31.5, loss=5.0)) == 31.5


def test_where_it_is_flat_a_lower_loss_is_better_and_any_metric_above_is_better_still() -> None:
    losses = (1e6, 80.0, 50.0, 1.0, 0.0, -3.0)
    found = [score(report(0.0, loss=loss)) for loss in losses]
    assert found == sorted(set(found))
    assert 0 < found[0] < found[-1] < FLAT
    assert score(report(0.09, loss=80.0)) < score(report(0.0, loss=50.0))  # so small an AP says less than the loss


def test_the_weights_that_are_searched_are_divided_out() -> None:
    own = {CE: 2.0, MASK: 5.0}
    plain = score(report(0.0, loss=2.0 * 1 + 5.0 * 3, loss_ce=2.0, loss_mask=15.0))
    heavy = report(0.0, loss=8.0 * 1 + 1.0 * 3, loss_ce=8.0, loss_mask=3.0)
    assert score(heavy, {CE: 8.0, MASK: 1.0, "SOLVER.BASE_LR": 1.0}, {**own, "SOLVER.BASE_LR": 2.0}) == pytest.approx(
        plain
    )


def test_a_head_has_the_weight_of_subcategories() -> None:
    key = f"{FORMER}.SUBCATEGORY_WEIGHT"
    told = report(0.0, loss=9.0, loss_ripeness=8.0, loss_ce=1.0)
    assert score(told, {key: 8.0}, {key: 2.0}) == pytest.approx(score(report(0.0, loss=3.0)))


def test_what_cannot_be_compared_is_left_out() -> None:
    no_object = {f"{FORMER}.NO_OBJECT_WEIGHT": 0.3}
    told = report(0.0, loss=100.0, loss_ce=90.0, loss_ripeness=5.0, loss_mask=3.0, loss_dice=2.0)
    assert score(told, no_object, {f"{FORMER}.NO_OBJECT_WEIGHT": 0.1}) == score(report(0.0, loss=5.0))
    assert score(told, {f"{FORMER}.DEC_LAYERS": 4}, {f"{FORMER}.DEC_LAYERS": 10}) == 0.0


@pytest.mark.parametrize("told", [report(0.0), report(0.0, loss=None), report(0.0, loss=float("nan"))])
def test_without_a_loss_it_is_the_metric(told: dict[str, Any]) -> None:
    assert score(told) == 0.0


@pytest.mark.parametrize("metric", ["-loss", "loss", "segm/AP_se", "color/accuracy", "segm/AP - 0.1*loss"])
def test_only_what_rises_from_0_to_100_is_flat_at_0(metric: str) -> None:
    told = {**report(0.0, loss=-1.0), "segm/AP_se": 0.0, "color/accuracy": 0.0}
    assert not may_be_flat(Objective.parse(metric))
    assert score(told, metric=metric) == Objective.parse(metric).value(told)


def test_a_sum_is_flat_below_the_sum_of_its_weights() -> None:
    both = "2*segm/AP + segm/AP_all"
    assert score(report(0.2, loss=5.0), metric=both) == pytest.approx(0.5)
    assert 0 < score(report(0.1, loss=5.0), metric=both) < 0.3
