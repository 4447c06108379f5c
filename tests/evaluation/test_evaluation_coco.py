"""COCO's numbers: the published ones, and what goes beyond pycocotools' own summary."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from evaluation_cases import CATEGORIES, annotation, dataset, predictions

from raytune_m2f.data import Annotation, CocoDataset
from raytune_m2f.errors import DatasetError, MissingDependencyError, NonFiniteLossError
from raytune_m2f.evaluation import CocoEvaluator, coco_ground_truth, instances_to_results
from raytune_m2f.evaluation.coco import EvaluatorName, GroundTruth, Task, error_gains, standard_metrics
from raytune_m2f.model import Instances

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
EVALUATORS: tuple[EvaluatorName, ...] = get_args(EvaluatorName)


def evaluate(data: CocoDataset, *images: Instances, max_detections: int = 100) -> dict[str, float]:
    """The metrics of one prediction for each of the first images."""
    results = [
        result
        for record, instances in zip(data.records, images, strict=False)
        for result in instances_to_results(instances, image_id=record.id, categories=data.categories)
    ]
    return evaluate_segm(coco_ground_truth(data), results, max_detections=max_detections)


def evaluate_segm(truth: GroundTruth, results: list[dict[str, Any]], *, max_detections: int = 100) -> dict[str, float]:
    """By either evaluator, which say the same."""
    hotcoco, pycocotools = (
        standard_metrics(truth, results, max_detections=max_detections, evaluator=evaluator) for evaluator in EVALUATORS
    )
    assert hotcoco == pytest.approx(pycocotools, rel=0, abs=0, nan_ok=True)
    return hotcoco


def percent(value: float) -> float:
    return 100 * value if value > -1 else math.nan


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("task", get_args(Task))
def test_official_results_give_the_official_numbers(data_root: Path, task: Task, evaluator: EvaluatorName) -> None:
    folder = data_root / "eval_fixtures" / "coco_val2014_fake100"
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{task}100_results.json").read_text())
    content = json.loads((folder / "instances_val2014_100.json").read_text())

    metrics = standard_metrics(GroundTruth.of_file(content), results, task, max_detections=100, evaluator=evaluator)

    for name, value in zip(NAMES, expected[task], strict=True):
        assert metrics[f"{task}/{name}"] == pytest.approx(percent(value), abs=1e-9, nan_ok=True)
    names = {category["id"]: category["name"] for category in content["categories"]}
    for category_id, value in expected[f"{task}_per_category_AP_measured_here"].items():
        assert metrics[f"{task}/AP-{names[int(category_id)]}"] == pytest.approx(percent(value), abs=1e-9, nan_ok=True)
    assert len(metrics) == 12 + 80


def test_area_of_a_detection_is_its_mask_s_even_where_a_box_is_given(data_root: Path) -> None:
    folder = data_root / "eval_fixtures" / "faster_coco_eval_small"
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    content = json.loads((folder / "gt_dataset.json").read_text())
    detections = json.loads((folder / "dt_dataset.json").read_text())
    masks = GroundTruth.of_file({**content, "annotations": detections}).dataset["annotations"]  # as run lengths
    results = [
        {**detection, "segmentation": mask["segmentation"], "bbox": [0, 0, 999, 999]}
        for detection, mask in zip(detections, masks, strict=True)
    ]

    metrics = evaluate_segm(GroundTruth.of_file(content), results)

    for name, value in zip(NAMES, expected["segm_detections_without_bbox"], strict=True):
        assert metrics[f"segm/{name}"] == pytest.approx(percent(value), abs=1e-9, nan_ok=True)


def test_ap_is_taken_at_the_largest_bound_and_ar_named_by_it() -> None:
    data = dataset([annotation(i, i) for i in range(3)])

    metrics = evaluate(data, predictions([0, 1, 2]), max_detections=2)

    # Two of three are found: precision is 1 at the 67 recall points from 0.00 to 0.66.
    assert metrics["segm/AP"] == pytest.approx(100 * 67 / 101)
    assert metrics["segm/AR2"] == pytest.approx(100 * 2 / 3)
    assert metrics["segm/AR1"] == pytest.approx(100 / 3)
    assert {name for name in metrics if name[5:7] == "AR" and name[7:].isdigit()} == {"segm/AR1", "segm/AR2"}


def test_three_hundred_instances_of_an_image_can_all_count() -> None:
    data = dataset([annotation(i, i) for i in range(300)])

    metrics = evaluate(data, predictions(range(300)), max_detections=300)

    assert metrics["segm/AP"] == metrics["segm/AR300"] == pytest.approx(100.0)
    assert evaluate(data, predictions(range(300)))["segm/AR100"] == pytest.approx(100 / 3)


def test_nothing_predicted_is_zero_and_not_nan() -> None:
    metrics = evaluate(dataset([annotation(1, 0)], [annotation(2, 1, label=1)]))

    assert metrics["segm/AP"] == metrics["segm/AP50"] == metrics["segm/AR100"] == metrics["segm/AP-fig"] == 0.0


def test_without_ground_truth_there_is_no_number() -> None:
    metrics = evaluate(dataset([], []), predictions([0]))

    assert all(math.isnan(value) for value in metrics.values())


def test_only_categories_with_ground_truth_count() -> None:
    metrics = evaluate(dataset([annotation(1, 0)]), predictions([0, 1], labels=[0, 1]))

    assert metrics["segm/AP"] == metrics["segm/AP-nut"] == pytest.approx(100.0)
    assert math.isnan(metrics["segm/AP-fig"])


def test_crowds_are_neither_right_nor_wrong() -> None:
    data = dataset([annotation(1, 0), annotation(2, 1, crowd=True)])

    assert evaluate(data, predictions([1, 1, 0]))["segm/AP"] == pytest.approx(100.0)
    assert evaluate(data, predictions([2, 2, 0]))["segm/AP"] == pytest.approx(100 / 3)


def test_an_annotation_may_have_id_zero() -> None:
    assert evaluate(dataset([annotation(0, 0)]), predictions([0]))["segm/AP"] == pytest.approx(100.0)


def test_images_without_predictions_count_as_missed() -> None:
    data = dataset([annotation(1, 0)], [annotation(2, 0)])

    assert evaluate(data, predictions([0]))["segm/AR100"] == pytest.approx(50.0)


@pytest.mark.parametrize("large", [-5, 2**31, 2**53 + 1, 2**63 + 12345, 2**70])
def test_ids_of_any_size_give_what_small_ones_give(large: int) -> None:
    """numpy turns a mixture of ids within and beyond int64 into floats, in which COCOeval finds none of them."""
    data = dataset([annotation(1, 0)], [annotation(2, 1)], [annotation(3, 2, label=1)], [annotation(4, 3)])
    found = [predictions([0]), predictions([1, 5], scores=[0.5, 0.5]), predictions([2], [1]), predictions([7])]
    small = evaluate(data, *found)

    records = tuple(replace(r, id=large if r.id == 30 else r.id) for r in data.records)
    categories = replace(CATEGORIES, ids=tuple(sorted((3, large))))
    order = sorted(range(4), key=lambda i: records[i].id)
    large_ids = replace(data, categories=categories, records=tuple(records[i] for i in order))

    assert evaluate(large_ids, *(found[i] for i in order)) == pytest.approx(small, nan_ok=True)
    assert small["segm/AP50"] < 100


@pytest.mark.parametrize(("key", "value"), [("image_id", 999), ("category_id", 4)])
def test_unknown_ids_are_refused(key: str, value: int) -> None:
    data = dataset([annotation(1, 0)])
    (result,) = instances_to_results(predictions([0]), image_id=10, categories=CATEGORIES)

    with pytest.raises(DatasetError, match=rf"1 {key} that the ground truth does not have: {value}\."):
        evaluate_segm(coco_ground_truth(data), [{**result, key: value}])


def test_ground_truth_can_be_used_again_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    data = dataset([annotation(1, 0), annotation(2, 1)])
    ground_truth = coco_ground_truth(data)
    results = instances_to_results(predictions([0]), image_id=10, categories=CATEGORIES)

    first = evaluate_segm(ground_truth, results)
    evaluate_segm(ground_truth, [])

    assert evaluate_segm(ground_truth, results) == pytest.approx(first, nan_ok=True)
    for bound in (1, 9, 300):
        evaluate_segm(ground_truth, results, max_detections=bound)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize(
    ("task", "change", "message"),
    [
        ("segm", {"score": math.nan}, r"result 2 of 2 \(image_id 10\) has the score nan: detections are ranked"),
        ("bbox", {"score": math.nan}, "has the score nan"),
        ("bbox", {"bbox": [1.0, 2.0, math.nan, 4.0]}, r"has the box \[1.0, 2.0, nan, 4.0\]"),
        ("bbox", {"bbox": [1.0, 2.0, 3.0, math.inf]}, "has the box"),
    ],
)
def test_what_is_no_number_is_refused(
    task: Task, change: dict[str, Any], message: str, evaluator: EvaluatorName
) -> None:
    results = instances_to_results(predictions([0, 1]), image_id=10, categories=CATEGORIES)
    results[1] |= change
    truth = coco_ground_truth(dataset([annotation(1, 0)]))

    with pytest.raises(NonFiniteLossError, match=message):
        standard_metrics(truth, results, task, max_detections=100, evaluator=evaluator)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, r"the annotations have 1 image_id that the file does not have: 5\. Correct"),
        ({"category_id": 2}, "the annotations have 1 category_id that the file does not have: 2"),
        ({"area": None}, "annotation 9 must have an area"),
        ({"area": math.nan}, "got area nan"),
        ({"bbox": [0, 0, math.inf, 1]}, r"and bbox \[0, 0, inf, 1\]"),
    ],
)
def test_a_file_that_the_evaluators_read_differently_is_refused(change: dict[str, Any], message: str) -> None:
    (entry,) = coco_ground_truth(dataset([annotation(9, 0)])).dataset["annotations"]
    entry = {**entry, "id": 9, "image_id": 1, "category_id": 1, **change}
    content = {
        "images": [{"id": 1, "height": 128, "width": 128}],
        "categories": [{"id": 1, "name": "nut"}],
        "annotations": [{key: value for key, value in entry.items() if value is not None}],
    }

    with pytest.raises(DatasetError, match=message):
        GroundTruth.of_file(content)


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize(("task", "key"), [("segm", "segmentation"), ("bbox", "bbox")])
def test_a_file_without_what_is_compared_is_refused(task: Task, key: str, evaluator: EvaluatorName) -> None:
    content = coco_ground_truth(dataset([annotation(1, 0), annotation(2, 1)])).dataset
    del content["annotations"][1][key]

    with pytest.raises(DatasetError, match=f"1 annotations have no '{key}', which '{task}' compares"):
        standard_metrics(GroundTruth.of_file(content), [], task, max_detections=100, evaluator=evaluator)


def test_without_hotcoco_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    data = dataset([annotation(1, 0)])

    with pytest.raises(MissingDependencyError, match=r"pip install 'hotcoco>=1\.3'; or.* TEST\.EVALUATOR: pycocotools"):
        CocoEvaluator(data)

    assert CocoEvaluator(data, evaluator="pycocotools").evaluate()["segm/AP"] == 0.0


NUT, FIG = 0, 1
GAINS: dict[str, tuple[list[Annotation], Instances, dict[str, float]]] = {
    "perfect": ([annotation(1, 0), annotation(2, 1, FIG)], predictions([0, 1], [NUT, FIG]), {}),
    # each is right under the other's name, and then both categories are perfect
    "swapped": (
        [annotation(1, 0), annotation(2, 1, FIG)],
        predictions([0, 1], [FIG, NUT]),
        {"classification": 100.0},
    ),
    # the second of three by score: precision is 1 up to recall 0.5, then 2 / 3 at 50 of 101 points
    "duplicate": (
        [annotation(1, 0), annotation(2, 1)],
        predictions([0, 0, 1]),
        {"duplicate": 100 / 3 * 50 / 101},
    ),
    # the first of two by score: precision is 1 / 2
    "background": ([annotation(1, 0)], predictions([9, 0]), {"background": 50.0}),
    # 51 of 101 recall points are reached
    "missed": ([annotation(1, 0), annotation(2, 1)], predictions([0]), {"missed": 100 * 50 / 101}),
    "nothing found": (
        [annotation(1, 0), annotation(2, 1)],
        predictions([]),
        {},
    ),  # TIDE's rule, not what one may expect
    "in a crowd": ([annotation(1, 0), annotation(2, 1, crowd=True)], predictions([1, 0]), {}),
}


@pytest.mark.parametrize("name", GAINS)
def test_gains_of_hand_worked_errors(name: str) -> None:
    annotations, found, expected = GAINS[name]
    data = dataset(annotations)
    results = instances_to_results(found, image_id=10, categories=CATEGORIES)

    gains = error_gains(coco_ground_truth(data), results, max_detections=100)

    every = ("classification", "localisation", "both", "duplicate", "background", "missed")
    assert gains == pytest.approx(dict.fromkeys(every, 0.0) | expected, abs=1e-9)


@pytest.mark.parametrize(
    ("label", "shift", "expected"),
    [
        (NUT, 1, {}),  # an IoU of 12 / 20 is a match
        (NUT, 2, {"localisation": 100 / 2}),  # 8 / 24 is none: of two categories one is at 0
        (NUT, 4, {}),  # without it, as without the nut that is missed, nuts stay at 0
        (FIG, 1, {"classification": (100 + 50) / 2}),  # nuts rise from 0, figs from precision 1 / 2
        (FIG, 2, {"both": 50 / 2}),
        (FIG, 4, {"background": 50 / 2}),
    ],
)
def test_gains_of_a_square_beside_its_place(label: int, shift: int, expected: dict[str, float]) -> None:
    truth = coco_ground_truth(dataset([annotation(1, 0, NUT), annotation(2, 30, FIG)]))
    found = instances_to_results(predictions([0, 30], [label, FIG]), image_id=10, categories=CATEGORIES)
    x, *rest = found[0]["bbox"]
    found[0]["bbox"] = [x + shift, *rest]

    gains = error_gains(truth, found, "bbox", max_detections=100)

    assert gains == pytest.approx(dict.fromkeys(gains, 0.0) | expected, abs=1e-9)


def test_without_anything_to_find_there_are_no_gains() -> None:
    crowd = dataset([annotation(1, 0, crowd=True)], [])
    for data in (crowd, dataset([], []), dataset()):
        gains = error_gains(coco_ground_truth(data), [], max_detections=100)
        assert len(gains) == 6
        assert all(math.isnan(value) for value in gains.values())
