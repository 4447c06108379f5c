"""What is found before a study is made."""

from __future__ import annotations

from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.errors import DatasetError, ModelError, SearchSpaceError, StudyError
from raytune_m2f.training.objective import Constraint, Objective
from raytune_m2f.tuning import SearchSpace, check_before_start

QUERIES, BATCH = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "SOLVER.IMS_PER_BATCH"


def space(key: str, **entry: Any) -> SearchSpace:
    return SearchSpace.from_dict({key: entry})


def test_fewer_queries_than_instances_are_worth_a_note(tiny_config: Config) -> None:
    (note,) = check_before_start(tiny_config, space(QUERIES, type="int", low=2, high=20), workers=1)
    assert "an image has 4 instances" in note
    assert "can be 2" in note
    assert check_before_start(tiny_config, space(QUERIES, type="int", low=4, high=20), workers=1) == []


def test_a_batch_smaller_than_the_workers_is_refused(tiny_config: Config) -> None:
    batches = space(BATCH, type="categorical", choices=[2, 4, 8])
    assert check_before_start(tiny_config, batches, workers=2) == []
    with pytest.raises(SearchSpaceError, match="can be 2, but a trial has 3 workers"):
        check_before_start(tiny_config, batches, workers=3)


def test_a_metric_that_no_report_has_is_refused_before_anything_trains(tiny_config: Config) -> None:
    queries = space(QUERIES, type="int", low=4, high=20)
    asked = (Objective.parse("segm/AP + 0.5*color/accuracy"), Constraint.parse("latency_ms<=50"))
    assert check_before_start(tiny_config, queries, workers=1, asked=asked) == []
    with pytest.raises(
        StudyError, match=r"no report will have 'color/acc'\. Did you mean color/accuracy\? Allowed: loss"
    ):
        check_before_start(tiny_config, queries, workers=1, asked=[Objective.parse("color/acc")])


def test_weights_that_are_not_there_are_refused(tiny_config: Config) -> None:
    config = tiny_config.with_values({"MODEL.WEIGHTS": "/no/such/file.pth"})
    with pytest.raises(ModelError, match=r"/no/such/file\.pth' is not a file on this machine"):
        check_before_start(config, space(QUERIES, type="int", low=4, high=20), workers=1)


def test_wrong_data_are_refused(tiny_config: Config) -> None:
    content = tiny_config.to_dict()
    content["DATASETS"]["SUBCATEGORIES"] = ["colour"]
    with pytest.raises(DatasetError, match="colour"):
        check_before_start(Config.from_dict(content), space(QUERIES, type="int", low=4, high=20), workers=1)


def test_a_weight_of_heads_that_are_not_there_is_worth_a_note(tiny_config: Config) -> None:
    weight = space("MODEL.MASK_FORMER.SUBCATEGORY_WEIGHT", type="uniform", low=1.0, high=2.0)
    assert check_before_start(tiny_config, weight, workers=1) == []
    content = tiny_config.to_dict()
    content["DATASETS"]["SUBCATEGORIES"] = []
    (note,) = check_before_start(Config.from_dict(content), weight, workers=1)
    assert "changes nothing without subcategory heads" in note


def test_a_conditional_count_of_queries_may_be_the_configurations(tiny_config: Config) -> None:
    sizes = SearchSpace.from_dict(
        {
            BATCH: {"type": "categorical", "choices": [2, 4]},
            QUERIES: {"type": "int", "low": 6, "high": 9, "when": {BATCH: 2}},
        }
    )
    (note,) = check_before_start(tiny_config.with_values({QUERIES: 3}), sizes, workers=1)
    assert "can be 3" in note
