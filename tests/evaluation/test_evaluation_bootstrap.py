"""The bootstrap of AP equals pycocotools on images that are really there several times."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation_cases import annotation, dataset, predictions
from numpy.typing import NDArray

from raytune_m2f.evaluation import coco_ground_truth, evaluate_results, instances_to_results
from raytune_m2f.evaluation.bootstrap import ap_of_draws, ap_standard_error
from raytune_m2f.evaluation.coco import GroundTruth, coco_metrics, numbered, run_cocoeval

Results = list[dict[str, Any]]


def repeated(truth: GroundTruth, results: Results, counts: NDArray[np.int64]) -> tuple[GroundTruth, Results]:
    """A data set in which image i is there counts[i] times, and the results for it."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    copies: Results = []
    results = numbered(truth, results)
    by_id = {image["id"]: image for image in truth.dataset["images"]}
    for image_id, count in zip(sorted(by_id), counts.tolist(), strict=True):
        for _ in range(count):
            new = len(images) + 1
            images.append({**by_id[image_id], "id": new})
            annotations += [{**a, "image_id": new} for a in truth.dataset["annotations"] if a["image_id"] == image_id]
            copies += [{**r, "image_id": new} for r in results if r["image_id"] == image_id]
    content = {"images": images, "categories": truth.dataset["categories"], "annotations": annotations}
    return GroundTruth.of_file(content), copies


def assert_equals_pycocotools(truth: GroundTruth, results: Results, draws: int, *, max_detections: int = 100) -> None:
    count = len(truth.dataset["images"])
    counts = np.random.default_rng(1).multinomial(count, [1 / count] * count, size=draws)
    found = ap_of_draws(run_cocoeval(truth, results, max_detections=max_detections), counts)
    for value, drawn in zip(found, counts, strict=True):
        expected = coco_metrics(run_cocoeval(*repeated(truth, results, drawn), max_detections=max_detections))
        assert value == pytest.approx(expected["segm/AP"], abs=1e-9, nan_ok=True)


def random_set(seed: int) -> tuple[GroundTruth, Results]:
    """8 images with up to 4 squares, some of them crowds; detections on and beside them, often of equal score."""
    rng = np.random.default_rng(seed)
    images = [
        [
            annotation(10 * i + j, cell, int(rng.integers(2)), crowd=bool(rng.random() < 0.1))
            for j, cell in enumerate(rng.permutation(9)[: rng.integers(5)].tolist())
        ]
        for i in range(8)
    ]
    data = dataset(*images)
    results: Results = []
    for record in data.records:
        cells = rng.integers(9, size=rng.integers(8)).tolist()
        instances = predictions(
            cells,
            rng.integers(2, size=len(cells)).tolist(),
            scores=rng.choice([0.3, 0.5, 0.7, 0.71], len(cells)).tolist(),
        )
        results += instances_to_results(instances, image_id=record.id, categories=data.categories)
    return coco_ground_truth(data), results


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_detections", [2, 100])
def test_random_sets_equal_pycocotools_on_repeated_images(seed: int, max_detections: int) -> None:
    assert_equals_pycocotools(*random_set(seed), draws=8, max_detections=max_detections)


@pytest.mark.parametrize(
    ("truth", "detections"),
    [
        ("coco_val2014_fake100/instances_val2014_100.json", "instances_val2014_fakesegm100_results.json"),
        ("fashionpedia_sample/sample.json", "fake_results.json"),
    ],
)
def test_published_results_equal_pycocotools_on_repeated_images(data_root: Path, truth: str, detections: str) -> None:
    file = data_root / "eval_fixtures" / truth
    results = json.loads((file.parent / detections).read_text())
    assert_equals_pycocotools(GroundTruth.of_file(json.loads(file.read_text())), results, draws=2)


def test_as_drawn_once_it_is_the_ap_itself() -> None:
    truth, results = random_set(0)
    evaluation = run_cocoeval(truth, results, max_detections=100)
    (value,) = ap_of_draws(evaluation, np.ones((1, 8), dtype=np.int64))
    assert value == pytest.approx(coco_metrics(evaluation)["segm/AP"], abs=1e-9)


def test_the_error_is_the_spread_of_the_draws() -> None:
    """Every image is right or wrong as a whole: AP over recall is near the share of images that are right."""
    data = dataset(*[[annotation(i, 0)] for i in range(100)])
    results: Results = []
    for i, record in enumerate(data.records):
        instances = predictions([0 if i % 2 else 5], scores=[0.5 + (i * 37 % 100) / 1000])
        results += instances_to_results(instances, image_id=record.id, categories=data.categories)
    truth = coco_ground_truth(data)
    evaluation = run_cocoeval(truth, results, max_detections=100)
    error = ap_standard_error(evaluation, 200)
    assert error == ap_standard_error(evaluation, 200)
    assert 3.0 < error < 8.0  # AP is about p^2 = 25, p has an error of 5 percent points: 2 p x 5 = 5
    assert error == pytest.approx(ap_standard_error(evaluation, 2000), rel=0.15)


def test_the_metrics_hold_it_if_it_is_asked_for() -> None:
    truth, results = random_set(2)
    for result in results:
        result["colour"] = 0
    assert "segm/AP_se" not in evaluate_results(truth, results).metrics
    assert evaluate_results(truth, results, bootstrap=50).metrics["segm/AP_se"] > 0


def test_of_several_tasks_it_is_the_first_ones() -> None:
    truth, results = random_set(2)
    for result in results:
        result["colour"] = 0
    metrics = evaluate_results(truth, results, tasks=("bbox", "segm"), bootstrap=50).metrics
    assert metrics["bbox/AP_se"] > 0
    assert "segm/AP_se" not in metrics
    assert metrics["bbox/AP"] == pytest.approx(metrics["segm/AP"])  # squares are their boxes


def test_without_ground_truth_there_is_no_error() -> None:
    truth = coco_ground_truth(dataset([], []))
    assert math.isnan(ap_standard_error(run_cocoeval(truth, [], max_detections=100), 10))
    nothing_found = coco_ground_truth(dataset([annotation(1, 0)], [annotation(2, 0)]))
    assert ap_standard_error(run_cocoeval(nothing_found, [], max_detections=100), 10) == 0.0
