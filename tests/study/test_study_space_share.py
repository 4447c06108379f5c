"""Shares: the balance is searched, the sum is the configuration's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_study import config, create_study, leave_reports, open_record, settings

from raytune_m2f.config import Config
from raytune_m2f.drive.driver import Driver
from raytune_m2f.errors import SearchSpaceError, StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.record import Record
from raytune_m2f.study.space import SearchSpace, check_space, load_space
from raytune_m2f.study.status import study_status

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
        check_space(SearchSpace.from_dict({CLASS: SHARE, MASK: SHARE, key: SHARE}, source="s"), config)


def test_the_check_is_of_resolved_values() -> None:
    """Neither end of the raw range is a valid value."""
    steep = {"type": "share", "low": 1e6, "high": 1e8}
    check_space(SearchSpace.from_dict({CLASS: steep, MASK: steep}, source="s"), Config())


@pytest.mark.parametrize("name", ["default", "loss_weights"])
def test_packaged_loss_weights_are_shares(name: str) -> None:
    assert load_space(name, Config()).shares == [CLASS, MASK, DICE]


# Back to raw weights


def test_raw_weights_with_the_balance_of_trained_ones() -> None:
    space = SearchSpace.from_dict(LINES)
    trained = {CLASS: 2.0, LR: 3e-4, MASK: 2.0, DICE: 8.0}
    assert space.weights(trained) == trained, "they lie within their ranges"


@pytest.mark.parametrize(
    ("trained", "drawn"),
    [
        ({CLASS: 0.1, MASK: 1.0, DICE: 2.0}, {CLASS: 0.5, MASK: 5.0, DICE: 10.0}),
        ({CLASS: 4.0, MASK: 10.0, DICE: 40.0}, {CLASS: 2.0, MASK: 5.0, DICE: 20.0}),
        ({CLASS: 0.1, MASK: 4.0, DICE: 1.0}, {CLASS: 0.5, MASK: 20.0, DICE: 5.0}),  # both ends
    ],
)
def test_the_nearest_scale_that_suits_all_ranges_is_taken(trained: dict[str, float], drawn: dict[str, float]) -> None:
    space = SearchSpace.from_dict(LINES)
    found = space.weights(trained)
    assert found == pytest.approx(drawn)
    assert space.contains(found) == []
    assert space.resolve(found, Config()) == pytest.approx(space.resolve(trained, Config()))


@pytest.mark.parametrize(
    "trained",
    [{CLASS: 0.1, MASK: 1.0, DICE: 5.0}, {CLASS: 0.0, MASK: 1.0, DICE: 5.0}, {CLASS: "x", MASK: 1.0, DICE: 5.0}],
)
def test_a_balance_that_the_ranges_do_not_have_lies_outside(trained: dict[str, Any]) -> None:
    space = SearchSpace.from_dict(LINES)
    assert space.weights(trained) == trained
    assert CLASS in space.contains(trained)


# In the record


@pytest.fixture
def study(tmp_path: Path) -> StudyDirectory:
    """Shares of the sum 12, drawn at another scale: trained with (2, 4, 6) and (1, 1, 10)."""
    study = create_study(tmp_path / "old", config(), SearchSpace.from_dict(LINES), settings(trials=9))
    record = open_record(study)
    for score, weights in ((30.0, (3.0, 6.0, 9.0)), (20.0, (1.5, 1.5, 15.0))):
        record.study.enqueue_trial({LR: 1e-4, **dict(zip((CLASS, MASK, DICE), weights, strict=True))})
        number = record.ask()
        leave_reports(study.trial(number), {80: score})
        record.settle(number, ended=True)
    return study


TRAINED = {CLASS: 2.0, LR: 1e-4, MASK: 4.0, DICE: 6.0}


def test_status_shows_what_was_trained(study: StudyDirectory) -> None:
    status = study_status(study.root)
    assert status.trials[0].values == pytest.approx(TRAINED)
    assert json.loads(status.to_json())["trials"][1]["values"] == pytest.approx({CLASS: 1, LR: 1e-4, MASK: 1, DICE: 10})
    record = open_record(study)
    assert record.trial(0).params[DICE] == 9.0, "the sampler learns from what it drew"
    assert record.trial(0).user_attrs["trained"] == pytest.approx({CLASS: 2.0, MASK: 4.0, DICE: 6.0})
    record.study.enqueue_trial({LR: 1e-4, CLASS: 1.0, MASK: 2.0, DICE: 3.0})
    assert (Driver(record, []).next_trial() or (0, {}))[1] == pytest.approx(TRAINED), "what the trial is told"


def test_a_study_of_the_version_before_shows_it_too(study: StudyDirectory) -> None:
    lines = [line for line in study.journal.read_text().splitlines(keepends=True) if '"trained"' not in line]
    study.journal.write_text("".join(lines))
    assert "trained" not in open_record(study).trial(0).user_attrs
    assert study_status(study.root).trials[0].values == pytest.approx(TRAINED)


def test_a_trial_stays_what_it_was_when_the_space_is_changed(study: StudyDirectory) -> None:
    record = open_record(study)
    plan = replace(record.plan, space=SearchSpace.from_dict({key: LINES[key] for key in (LR, MASK, DICE)}))
    assert Record(study, plan).values(record.trial(0)) == pytest.approx(TRAINED)


def test_plain_keys_learn_what_was_trained(study: StudyDirectory) -> None:
    """Not the raw weights, 3, 6 and 9, which happen to lie within the ranges too."""
    plain = SearchSpace.from_dict(
        {key: {"type": "loguniform", "low": 0.5, "high": 20.0} for key in (CLASS, MASK, DICE)}
    )
    [(_, values)], prior = knowledge_of([study.root], config(), plain, settings())
    expected = [(2.0, 4.0, 6.0), (1.0, 1.0, 10.0)]
    assert [tuple(trial.params.values()) for trial in prior] == [pytest.approx(weights) for weights in expected]
    assert values == prior[0].params
    narrow = SearchSpace.from_dict({DICE: {"type": "loguniform", "low": 8.0, "high": 9.5}})
    with pytest.raises(StudyError, match="none of its trials"):
        knowledge_of([study.root], config(), narrow, settings())  # 9 is a raw weight, and no trial had it


@pytest.mark.parametrize("bounds", [(0.5, 20.0), (5.0, 100.0), (0.1, 3.0)], ids=["as they are", "larger", "smaller"])
def test_shares_learn_from_shares_at_any_scale(study: StudyDirectory, bounds: tuple[float, float]) -> None:
    share = {"type": "share", "low": bounds[0], "high": bounds[1]}
    shares = SearchSpace.from_dict({CLASS: share, MASK: share, DICE: share})
    _, prior = knowledge_of([study.root], config(), shares, settings())
    for trial, trained in zip(prior, ((2.0, 4.0, 6.0), (1.0, 1.0, 10.0)), strict=True):
        assert shares.contains(trial.params) == []
        assert tuple(shares.resolve(trial.params, config()).values()) == pytest.approx(trained)


def test_shares_learn_the_balance_of_plain_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The new configuration's sum is 12: the same balance at that sum."""
    plain = {key: {"type": "loguniform", "low": 0.1, "high": 100.0} for key in (CLASS, MASK, DICE)}
    study = create_study(tmp_path / "old", config(), SearchSpace.from_dict(plain), settings(trials=9))
    record = open_record(study)
    for score, weights in ((30.0, (10.0, 20.0, 30.0)), (20.0, (0.1, 100.0, 1.0))):
        record.study.enqueue_trial(dict(zip((CLASS, MASK, DICE), weights, strict=True)))
        leave_reports(study.trial(record.ask()), {80: score})
        record.reconcile()
    shares = SearchSpace.from_dict({CLASS: SHARE, MASK: SHARE, DICE: SHARE})
    with caplog.at_level("INFO", logger="raytune_m2f"):
        [(origin, values)], prior = knowledge_of([study.root], config(), shares, settings())
    assert (origin, [trial.params for trial in prior]) == ("earlier", [values])
    assert shares.resolve(values, config()) == pytest.approx({CLASS: 2.0, MASK: 4.0, DICE: 6.0})
    assert "1 of 2 trials fit the search space" in caplog.text, "of the other no scale suits all ranges"


def test_a_sampler_learns_raw_weights(study: StudyDirectory) -> None:
    """Within the ranges that it draws from."""
    record = open_record(study)
    record.study.enqueue_trial({LR: 1e-4, CLASS: 18.0, MASK: 12.0, DICE: 6.0})
    leave_reports(study.trial(record.ask()), {80: 10.0})
    record.reconcile()
    lines = {key: {"type": "share", "low": 6.1, "high": 80.0} for key in (CLASS, MASK, DICE)}
    shares = SearchSpace.from_dict(lines)
    _, prior = knowledge_of([study.root], config(), shares, settings())
    assert [shares.contains(trial.params) for trial in prior] == [[]] * 3
    assert shares.resolve(prior[2].params, config()) == pytest.approx({CLASS: 6.0, MASK: 4.0, DICE: 2.0})
