"""What is found before a study is made."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.drive.preflight import check_before_start
from raytune_m2f.engines import build_engine
from raytune_m2f.errors import ConfigError, DatasetError, ModelError, SearchSpaceError, StudyError
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.objective import Constraint, Objective

QUERIES, BATCH = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "SOLVER.IMS_PER_BATCH"


def space(key: str, **entry: Any) -> SearchSpace:
    return SearchSpace.from_dict({key: entry})


def test_fewer_queries_than_instances_are_worth_a_note(tiny_config: Config) -> None:
    (note,) = check_before_start(tiny_config, space(QUERIES, type="int", low=2, high=20), workers=1)
    assert "an image has 4 instances" in note
    assert "can be 2" in note
    assert check_before_start(tiny_config, space(QUERIES, type="int", low=4, high=20), workers=1) == []


def test_sizes_averages_and_balance_can_be_searched(tiny_config: Config) -> None:
    config = tiny_config.with_values(
        {"MODEL_EMA.ENABLED": True, "INPUT.COPY_PASTE.ENABLED": True, "SOLVER.MAX_ITER": 10}
    )
    keys = {
        "INPUT.START.ITERS": {"type": "int", "low": 0, "high": 8},
        "INPUT.START.IMAGE_SIZE": {"type": "categorical", "choices": [32, 64]},
        "INPUT.COLOR_AUG_SSD": {"type": "categorical", "choices": [True, False]},
        "INPUT.COPY_PASTE.PROB": {"type": "uniform", "low": 0.1, "high": 1.0},
        "MODEL_EMA.DECAY": {"type": "uniform", "low": 0.9, "high": 0.999},
        "MODEL.MASK_FORMER.SUBCATEGORY_BALANCE": {"type": "categorical", "choices": ["none", "inverse_sqrt"]},
    }
    assert check_before_start(config, SearchSpace.from_dict(keys), workers=1) == []


def test_a_batch_smaller_than_the_workers_is_refused(tiny_config: Config) -> None:
    batches = space(BATCH, type="categorical", choices=[2, 4, 8])
    assert check_before_start(tiny_config, batches, workers=2) == []
    with pytest.raises(SearchSpaceError, match="can be 2, but a trial has 3 workers"):
        check_before_start(tiny_config, batches, workers=3)


def test_a_metric_that_no_report_has_is_refused_before_anything_trains(tiny_config: Config) -> None:
    queries = space(QUERIES, type="int", low=4, high=20)
    asked = (Objective.parse("segm/AP + 0.5*segm/AP_all"), Constraint.parse("latency_ms<=50"))
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
    unused, note = check_before_start(Config.from_dict(content), weight, workers=1)
    assert "the annotations have labels of color, texture" in unused
    assert "changes nothing: there are no subcategory heads" in note


def test_a_conditional_count_of_queries_may_be_the_configurations(tiny_config: Config) -> None:
    sizes = SearchSpace.from_dict(
        {
            BATCH: {"type": "categorical", "choices": [2, 4]},
            QUERIES: {"type": "int", "low": 6, "high": 9, "when": {BATCH: 2}},
        }
    )
    (note,) = check_before_start(tiny_config.with_values({QUERIES: 3}), sizes, workers=1)
    assert "can be 3" in note


PERIOD, LR = "TEST.EVAL_PERIOD", "SOLVER.BASE_LR"
RATES = {"type": "loguniform", "low": 1e-4, "high": 1e-3}


@pytest.mark.parametrize("period", [0, 5, 5000])
def test_early_stopping_without_a_report_before_the_end_is_refused(tiny_config: Config, period: int) -> None:
    config = tiny_config.with_values({PERIOD: period})
    with pytest.raises(StudyError, match=rf"EVAL_PERIOD = {period} with SOLVER\.MAX_ITER = 4: .*--early-stopping none"):
        check_before_start(config, space(LR, **RATES), workers=1, stops=True)
    check_before_start(config, space(LR, **RATES), workers=1)
    assert check_before_start(tiny_config, space(LR, **RATES), workers=1, stops=True) == []


def test_a_single_report_at_the_very_end_is_a_note(tiny_config: Config) -> None:
    (note,) = check_before_start(tiny_config.with_values({PERIOD: 4}), space(LR, **RATES), workers=1, stops=True)
    assert "none can be stopped early" in note


def test_the_largest_batch_of_a_space_must_find_enough_images(tiny_config: Config) -> None:
    assert check_before_start(tiny_config, space(BATCH, type="categorical", choices=[2, 4, 12]), workers=1) == []
    for batches in ({"type": "categorical", "choices": [2, 4, 16]}, {"type": "int", "low": 2, "high": 16, "log": True}):
        with pytest.raises(ConfigError, match="IMS_PER_BATCH can be 16, but there are 12 images to train on"):
            check_before_start(tiny_config, space(BATCH, **batches), workers=1)


def without_category(config: Config, folder: Path) -> Config:
    """The test set has no instance of the category `disc`."""
    content = config.to_dict()
    entry = content["DATASETS"]["REGISTER"]["val"]
    annotations = json.loads(Path(entry["annotations"]).read_text())
    disc = next(c["id"] for c in annotations["categories"] if c["name"] == "disc")
    annotations["annotations"] = [a for a in annotations["annotations"] if a["category_id"] != disc]
    entry["annotations"] = str(folder / "val.json")
    (folder / "val.json").write_text(json.dumps(annotations))
    return Config.from_dict(content)


@pytest.mark.parametrize("asked", [Objective.parse("segm/AP-disc"), Constraint.parse("segm/APl>=1")])
def test_a_metric_that_would_be_nan_in_every_report_is_refused(
    tiny_config: Config, tmp_path: Path, asked: Objective | Constraint
) -> None:
    config = without_category(tiny_config, tmp_path)
    check_before_start(config, space(LR, **RATES), workers=1, asked=[Objective.parse("segm/AP-ring")])
    with pytest.raises(StudyError, match=rf"every report would have '{asked.keys[0]}' as NaN: .*val\.json has nothing"):
        check_before_start(config, space(LR, **RATES), workers=1, asked=[asked])


def test_a_metric_that_a_subset_cannot_measure_is_refused(tiny_config: Config) -> None:
    config = tiny_config.with_values({"TEST.SUBSET": 1})
    engine = build_engine(config)
    (record,) = engine.datasets.test_subset.records  # type: ignore[attr-defined]
    seen = {annotation.label for annotation in record.annotations}
    absent = next(name for label, name in enumerate(engine.categories.names) if label not in seen)
    with pytest.raises(StudyError, match=r"as NaN on the images of TEST\.SUBSET = 1"):
        check_before_start(config, space(LR, **RATES), workers=1, asked=[Objective.parse(f"segm/AP-{absent}")])


def test_what_was_read_is_logged(tiny_config: Config, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="raytune_m2f"):
        check_before_start(tiny_config, space(LR, **RATES), workers=1)
    assert "what was read:" in caplog.text
    assert "12 images" in caplog.text


# The doctor's first look

COSINE = {"SOLVER.LR_SCHEDULER_NAME": "WarmupCosineLR"}  # the default's steps lie beyond so short a training
LONG_RATES = {"type": "loguniform", "low": 1e-4, "high": 1e-2}


def test_what_the_doctor_would_warn_of_is_told_in_a_line(tiny_config: Config) -> None:
    config = tiny_config.with_values({**COSINE, "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 5.0})
    assert check_before_start(config, space(LR, **LONG_RATES), workers=1) == []
    (line,) = check_before_start(config, space(LR, **LONG_RATES), workers=1, doctor=True)
    assert line.startswith("doctor: 2 warnings: configuration/losses: MODEL.MASK_FORMER.NO_OBJECT_WEIGHT is 5")
    assert 'configuration/weights: MODEL.WEIGHTS is ""' in line
    assert "\n" not in line


def test_what_a_note_says_the_line_does_not_say_again(tiny_config: Config) -> None:
    queries = space(QUERIES, type="int", low=2, high=20)
    note, line = check_before_start(tiny_config.with_values(COSINE), queries, workers=1, doctor=True)
    assert "an image has 4 instances" in note
    assert "an image has" not in line
    assert line.startswith("doctor: 1 warning: configuration/weights: ")


def test_a_problem_stops_the_study_unless_the_doctor_is_not_asked(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_m2f.doctor.scoring._scores", lambda *_: {"segm/AP": 40.0})
    with pytest.raises(StudyError, match=r"doctor has found 1 problem:\n  evaluator/truth: .*segm/AP 40\.0") as error:
        check_before_start(tiny_config, space(LR, **LONG_RATES), workers=1, doctor=True)
    assert "--no-doctor starts the study all the same." in str(error.value)
    assert check_before_start(tiny_config, space(LR, **LONG_RATES), workers=1) == []


def test_the_first_look_builds_no_network(tiny_config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could need weights from an address, which only a trial fetches."""

    def built(self: object) -> None:
        raise AssertionError("a network was built")

    monkeypatch.setattr("raytune_m2f.engines.datasets.NativeEngine.learner", built)
    check_before_start(tiny_config, space(LR, **LONG_RATES), workers=1, doctor=True)
