"""COCO's numbers: the published ones, and what goes beyond pycocotools' own summary."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from evaluation_cases import CATEGORIES, annotation, dataset, predictions

from raytune_m2f.data import CocoDataset
from raytune_m2f.errors import DatasetError
from raytune_m2f.evaluation import coco_ground_truth, instances_to_results
from raytune_m2f.evaluation.coco import GroundTruth, Task, standard_metrics
from raytune_m2f.model import Instances

NAMES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


def evaluate(data: CocoDataset, *images: Instances, max_detections: int = 100) -> dict[str, float]:
    """The metrics of one prediction for each of the first images."""
    results = [
        result
        for record, instances in zip(data.records, images, strict=False)
        for result in instances_to_results(instances, image_id=record.id, categories=data.categories)
    ]
    return evaluate_segm(coco_ground_truth(data), results, max_detections=max_detections)


def evaluate_segm(truth: GroundTruth, results: list[dict[str, Any]], *, max_detections: int = 100) -> dict[str, float]:
    return standard_metrics(truth, results, max_detections=max_detections)


def percent(value: float) -> float:
    return 100 * value if value > -1 else math.nan


@pytest.mark.parametrize("task", get_args(Task))
def test_official_results_give_the_official_numbers(data_root: Path, task: Task) -> None:
    folder = data_root / "eval_fixtures" / "coco_val2014_fake100"
    expected: dict[str, Any] = json.loads((folder / "expected.json").read_text())
    results = json.loads((folder / f"instances_val2014_fake{task}100_results.json").read_text())
    content = json.loads((folder / "instances_val2014_100.json").read_text())

    metrics = standard_metrics(GroundTruth.of_file(content), results, task, max_detections=100)

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


def test_ground_truth_can_be_used_again_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    data = dataset([annotation(1, 0), annotation(2, 1)])
    ground_truth = coco_ground_truth(data)
    results = instances_to_results(predictions([0]), image_id=10, categories=CATEGORIES)

    first = evaluate_segm(ground_truth, results)
    evaluate_segm(ground_truth, [])

    assert evaluate_segm(ground_truth, results) == pytest.approx(first, nan_ok=True)
    assert capsys.readouterr().out == ""
