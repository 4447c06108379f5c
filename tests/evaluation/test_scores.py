"""What an evaluation says in words and in JSON (raytune_m2f.scores), and what `evaluate` prints of it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import pytest
from evaluation_cases import annotation, dataset, predictions

from raytune_m2f.cli.scores import print_scores
from raytune_m2f.data import Annotation
from raytune_m2f.evaluation import Evaluation, evaluate_results, instances_to_results
from raytune_m2f.model import UNKNOWN
from raytune_m2f.scores import Scores


def evaluation(
    images: Sequence[Sequence[Annotation]], cells: Sequence[Sequence[int]], colours: Sequence[Sequence[int]]
) -> Evaluation:
    """Squares that are found with their colours, image by image."""
    data = dataset(*images)
    found = [
        result
        for record, where, said in zip(data.records, cells, colours, strict=True)
        for result in instances_to_results(
            predictions(where, colours=said), image_id=record.id, categories=data.categories
        )
    ]
    return evaluate_results(data, found)


def reds(images: int, *, blue: int) -> list[list[Annotation]]:
    """One square an image, red but for the first `blue`."""
    return [[annotation(i, 0, colour=2 if i < blue else 0)] for i in range(images)]


def test_a_head_that_is_no_better_than_its_most_frequent_class_is_said_to_be_so() -> None:
    """Embryos of FINDINGS.md: 79.7 % right, where the majority class has 87.5 %."""
    truth = [[annotation(i, 0, colour=0 if i < 56 else 1)] for i in range(64)]
    said = [[0]] * 50 + [[1]] * 6 + [[0]] * 7 + [[1]]
    scores = Scores(evaluation(truth, [[0]] * 64, said))
    assert scores.heads["colour"].confusion[:2, :2].tolist() == [[50, 6], [7, 1]]
    assert next(scores.remarks()) == (
        "colour: 64 of 64 labelled instances found, 79.7 % of them right; to say always 'red' would get 87.5 %: "
        "no better than that (balanced accuracy 50.9)"
    )


def test_a_head_that_helps_is_not_blamed() -> None:
    (remark,) = Scores(evaluation(reds(4, blue=2), [[0]] * 4, [[2], [2], [0], [0]])).remarks()
    assert remark == (
        "colour: 4 of 4 labelled instances found, 100.0 % of them right; to say always 'red' would get 50.0 %"
    )


def test_coverage_stands_beside_an_accuracy_of_100() -> None:
    """One found of twenty, and right."""
    scores = Scores(evaluation(reds(20, blue=10), [[0], *[[]] * 19], [[2], *[[]] * 19]))
    assert scores["colour/accuracy"] == 100.0
    assert scores["colour/coverage"] == scores["colour/found_and_right"] == pytest.approx(5.0)
    assert next(scores.remarks()).startswith("colour: 1 of 20 labelled instances found")


def test_a_head_that_ranks_worse_than_none_is_told() -> None:
    remarks = list(Scores(evaluation(reds(4, blue=2), [[0]] * 4, [[0], [0], [2], [2]])).remarks())
    assert "worse than no head" in remarks[-1]


def test_what_would_help_most_is_named_first() -> None:
    good = evaluation(reds(4, blue=2), [[0]] * 4, [[2], [2], [0], [0]])
    gains = {"classification": 1.0, "missed": 20.55, "both": 0.0, "duplicate": math.nan}
    scores = Scores(good, error_gains=gains)
    assert next(scores.remarks()).endswith("were mended (TIDE): missed 20.6, classification 1.0")
    assert scores.as_dict()["error_gains"] == {**gains, "duplicate": None}


def test_nothing_found_and_nothing_labelled_are_told_apart() -> None:
    (nothing_found,) = Scores(evaluation([[annotation(1, 0)]], [[]], [[]])).remarks()
    (nothing_labelled,) = Scores(evaluation([[annotation(1, 0, colour=UNKNOWN)]], [[0]], [[0]])).remarks()
    assert nothing_found == "colour: none of 1 labelled instances found: nothing is known of this head"
    assert nothing_labelled == "colour: no annotation has a label"


def test_a_comparison_says_how_sure_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    truth = reds(40, blue=20)
    good = evaluation(truth, [[0]] * 40, [[2]] * 20 + [[0]] * 20)
    poor = evaluation(truth, [[0]] * 20 + [[]] * 20, [[2]] * 20 + [[]] * 20)
    one_less = evaluation(truth, [[0]] * 39 + [[]], [[2]] * 20 + [[0]] * 19 + [[]])
    better, same, unsure = (Scores(good, against=("models/b", other)).against for other in (poor, good, one_less))
    assert better is not None
    assert same is not None
    assert unsure is not None
    assert "this model is better, in 100.0 % of 200 draws" in better.verdict("segm/AR100")
    assert same.verdict("segm/AP") == "segm/AP: both the same"
    assert "cannot be told" in unsure.verdict("segm/AR100")
    reverse = Scores(poor, against=("models/b", good)).against
    assert reverse is not None
    assert "models/b is better, in 100.0 %" in reverse.verdict("segm/AR100")

    print_scores(Scores(good, against=("models/b", poor)), "models/a on val.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "models/a on val.json"
    assert "100 detections count (TEST.DETECTIONS_PER_IMAGE)" in lines[1]
    assert "against models/b, on the same images" in lines
    assert next(line for line in lines if line.startswith("segm/AR100")).split() == [
        "segm/AR100",
        "100.00",
        "0.00",
        "40",
    ]


def test_json_has_all_of_it_and_null_where_there_is_no_number() -> None:
    truth = reds(4, blue=2)
    good, poor = (evaluation(truth, [[0]] * 4, said) for said in ([[2], [2], [0], [0]], [[0]] * 4))
    content = json.loads(json.dumps(Scores(good, against=("models/b", poor)).as_dict(), allow_nan=False))
    assert content["metrics"]["segm/AP_all"] == pytest.approx(100.0)
    assert content["metrics"]["segm/APl"] is None
    assert content["standard_errors"].keys() == content["metrics"].keys() == content["counts"].keys()
    assert content["counts"]["segm/AP-nut"] == content["counts"]["colour/accuracy"] == content["images"] == 4
    assert content["confusion"] == {"colour": [[2, 0, 0], [0, 0, 0], [0, 0, 2]]}
    assert content["subcategories"] == {"colour": ["red", "green", "blue"]}
    beside = content["against"]["metrics"]["colour/accuracy"]
    assert (beside["this"], beside["other"], beside["difference"]) == (100.0, 50.0, 50.0)
    assert content["max_detections"] == 100


def test_of_one_image_no_error_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    one = evaluation([[annotation(1, 0)]], [[0]], [[0]])
    scores = Scores(one, against=("models/b", one))
    assert all(math.isnan(interval.error) for interval in scores.intervals.values())
    assert scores.against is not None
    assert scores.against.verdict("segm/AP") == "segm/AP: it cannot be told which one is better"
    print_scores(scores, "models/a on val.json")
    assert "segm/AP 100.00 1" in [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
