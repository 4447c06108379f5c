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
from raytune_m2f.evaluation.bootstrap import differences, draw, intervals, standard_errors
from raytune_m2f.evaluation.coco import GroundTruth, standard_metrics
from raytune_m2f.evaluation.evaluator import Scorer
from raytune_m2f.evaluation.measures import Measures
from raytune_m2f.evaluation.overlaps import found_in

Results = list[dict[str, Any]]


def repeated(truth: GroundTruth, results: Results, counts: NDArray[np.int64]) -> tuple[GroundTruth, Results]:
    """A data set in which image i is there counts[i] times, and the results for it."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    copies: Results = []
    of_image, of_category = truth.dataset["image_numbers"], truth.dataset["category_numbers"]
    results = [
        {**r, "image_id": of_image[r["image_id"]], "category_id": of_category[r["category_id"]]} for r in results
    ]
    by_id = {image["id"]: image for image in truth.dataset["images"]}
    for image_id, count in zip(sorted(by_id), counts.tolist(), strict=True):
        for _ in range(count):
            new = len(images) + 1
            images.append({**by_id[image_id], "id": new})
            annotations += [{**a, "image_id": new} for a in truth.dataset["annotations"] if a["image_id"] == image_id]
            copies += [{**r, "image_id": new} for r in results if r["image_id"] == image_id]
    annotations = [{**a, "id": number} for number, a in enumerate(annotations, start=1)]
    subcategories = truth.dataset.get("subcategories", {})
    content = {"images": images, "categories": truth.dataset["categories"], "annotations": annotations}
    return GroundTruth.of_file(content | {"subcategories": subcategories}), copies


def assert_equals_pycocotools(truth: GroundTruth, results: Results, draws: int, *, max_detections: int = 100) -> None:
    """Every metric of COCO's, of draws of the images."""
    weights = draw(len(truth.dataset["images"]), draws)
    found = measures_of(truth, results, max_detections=max_detections).standard(weights)
    for number, drawn in enumerate(weights.T.astype(np.int64)):
        there = repeated(truth, results, drawn)
        expected = standard_metrics(*there, max_detections=max_detections, evaluator="pycocotools")
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert found[name][number] == pytest.approx(value, abs=1e-9, nan_ok=True), name


def measures_of(truth: GroundTruth, results: Results, *, max_detections: int = 100) -> Measures:
    scorer = Scorer(truth, max_detections=max_detections)
    found = found_in(scorer.truths, results, max_detections=max_detections)
    return scorer.evaluate(results, found).measures


def random_set(seed: int) -> tuple[GroundTruth, Results]:
    """8 images with up to 4 squares, some of them crowds; detections on and beside them, of equal score in several
    images, never in one: where an image is there twice, COCOeval takes its equal scores in another order."""
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
        scores = rng.permutation(np.linspace(0.1, 0.9, 9))[: len(cells)].tolist()
        instances = predictions(
            cells,
            rng.integers(2, size=len(cells)).tolist(),
            scores=scores,
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
    results = [result | {"score": result["score"] - 1e-9 * i} for i, result in enumerate(results)]  # none are equal
    assert_equals_pycocotools(GroundTruth.of_file(json.loads(file.read_text())), results, draws=2)


@pytest.mark.parametrize("seed", range(3))
def test_every_image_once_is_the_metric_itself(seed: int) -> None:
    truth, results = random_set(seed)
    evaluation = evaluate_results(truth, results)
    values = evaluation.measures.values(evaluation.measures.once)
    assert values.keys() == evaluation.metrics.keys() == evaluation.measures.counts.keys()
    for name, value in evaluation.metrics.items():
        assert values[name] == pytest.approx([value], abs=1e-9, nan_ok=True), name


def test_joint_metrics_and_heads_are_of_the_images_drawn() -> None:
    """A draw is the same as a dataset in which the images are there as often."""
    truth, results = random_set(1)
    weights = draw(8, 5)
    drawn = measures_of(truth, results).multitask(weights)
    for number, counts in enumerate(weights.T.astype(np.int64)):
        expected = evaluate_results(*repeated(truth, results, counts)).metrics
        for name, values in drawn.items():
            assert values[number] == pytest.approx(expected[name], abs=1e-9, nan_ok=True), name


def halves(images: int) -> tuple[GroundTruth, Results]:
    """Every other image is right, the others are wrong as a whole: AP over recall is near the share that is right."""
    data = dataset(*[[annotation(i, 0)] for i in range(images)])
    results: Results = []
    for i, record in enumerate(data.records):
        instances = predictions([0 if i % 2 else 5], scores=[0.5 + (i * 37 % 100) / 1000])
        results += instances_to_results(instances, image_id=record.id, categories=data.categories)
    return coco_ground_truth(data), results


def test_the_error_is_the_spread_of_the_draws() -> None:
    measures = measures_of(*halves(100))
    errors = standard_errors(measures, 200)
    error = errors["segm/AP_se"]
    assert errors == standard_errors(measures, 200)
    for name in ("segm/AP", "segm/AP_all"):
        assert errors[f"{name}_se"] == intervals(measures, 200)[name].error
    assert 3.0 < error < 8.0  # AP is about p^2 = 25, p has an error of 5 percent points: 2 p x 5 = 5
    assert error == pytest.approx(standard_errors(measures, 2000)["segm/AP_se"], rel=0.15)


def test_an_interval_lies_around_its_value() -> None:
    interval = intervals(measures_of(*halves(100)))["segm/AR100"]
    assert interval.value == pytest.approx(50.0)
    assert interval.error == pytest.approx(5.0, rel=0.15)  # sqrt(0.5 x 0.5 / 100)
    assert (interval.low, interval.high) == pytest.approx((50 - 1.96 * interval.error, 50 + 1.96 * interval.error))


def test_two_models_are_compared_draw_by_draw() -> None:
    """B misses one image more than A: alone each is unsure by 5 points, their difference by one."""
    truth, results = halves(100)
    worse = [
        r | {"score": 0.01, "segmentation": results[0]["segmentation"]} if r["image_id"] == 20 else r for r in results
    ]
    found = differences(measures_of(truth, results), measures_of(truth, worse))
    recall = found["segm/AR100"]
    assert (recall.a, recall.b) == pytest.approx((50.0, 49.0))
    assert recall.difference.value == pytest.approx(1.0)
    assert recall.difference.error == pytest.approx(1.0, rel=0.2)  # of a Poisson number of draws of one image
    assert recall.better == pytest.approx(1 - np.exp(-1) / 2, abs=0.05)  # not drawn at all is a tie
    same = differences(measures_of(truth, results), measures_of(truth, results))["segm/AP"]
    assert (same.difference.value, same.difference.error, same.better) == (0.0, 0.0, 0.5)


def test_the_metrics_hold_the_error_if_it_is_asked_for() -> None:
    truth, results = random_set(2)
    assert "segm/AP_se" not in evaluate_results(truth, results).metrics
    assert evaluate_results(truth, results, bootstrap=50).metrics["segm/AP_se"] > 0


def test_of_several_tasks_it_is_the_first_ones() -> None:
    metrics = evaluate_results(*random_set(2), tasks=("bbox", "segm"), bootstrap=50).metrics
    assert metrics["bbox/AP_se"] > 0
    assert "segm/AP_se" not in metrics
    assert metrics["bbox/AP"] == pytest.approx(metrics["segm/AP"])  # squares are their boxes
    assert "bbox/AP_joint_colour" in metrics


def test_without_ground_truth_there_is_no_error() -> None:
    assert all(map(math.isnan, standard_errors(measures_of(coco_ground_truth(dataset([], [])), []), 10).values()))
    nothing_found = coco_ground_truth(dataset([annotation(1, 0)], [annotation(2, 0)]))
    assert standard_errors(measures_of(nothing_found, []), 10) == {"segm/AP_se": 0.0, "segm/AP_all_se": 0.0}
