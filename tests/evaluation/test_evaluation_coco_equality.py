"""hotcoco gives what pycocotools gives, to the last bit: on published results, and on 1,000 random cases.

The oracle of a random case is pycocotools by itself, fed with small ids; ours are given any ids in the same order.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from raytune_m2f.evaluation.coco import EvaluatorName, GroundTruth, Task, precision_recall, standard_metrics

Content = dict[str, Any]
Results = list[dict[str, Any]]

TASKS: tuple[Task, ...] = get_args(Task)
EVALUATORS: tuple[EvaluatorName, ...] = get_args(EvaluatorName)
SIDE = 100
IDS = [-(10**30), -5, 0, 1, 2, 3, 90, 2**31 - 1, 2**31, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64, 2**70]
AREAS = [0.0, 1023.0, 1024.0, float(np.nextafter(1024, 2000)), 9215.5, 9216.0, 9217.0, 1e10, 2e10, -1.0]
"""On, just off and beyond the limits of COCO's size classes."""
SIZES = [(1, 1), (4, 20), (20, 20), (31, 33), (32, 32), (33, 32), (64, 40), (96, 96), (97, 95), (100, 100)]
"""Height and width: 32 x 32 and 96 x 96 pixels are limits, and of 20 columns n are an IoU of n / 20, a threshold."""
NOISE = np.random.default_rng(0).random((SIDE, SIDE)) < 0.8
SCORES: dict[str, list[float]] = {
    "equal": [0.5],
    "few": [0.0, 0.25, 0.5, 0.75, 1.0],
    "close": [0.5, float(np.nextafter(0.5, 1)), float(np.nextafter(0.5, 0)), float(np.float32(0.1)), 0.1],
    "odd": [-0.0, 0.0, -3.0, 5e-324, 1e300, float("inf"), float("-inf")],
    "any": np.random.default_rng(0).random(400).tolist(),
}


class Case:
    """Ground truth and results of random rectangles in small images, by hypothesis' choices and one seed."""

    def __init__(self, data: st.DataObject):
        def choose(*values: Any) -> Any:
            return data.draw(st.sampled_from(values))

        self.rng = rng = np.random.default_rng(data.draw(st.integers(0, 2**63)))
        self.task: Task = choose("segm", "bbox")
        self.max_detections: int = choose(1, 2, 9, 10, 11, 100, 300)
        self.images, self.categories = choose(0, 1, 2, 3, 4, 5, 6, 7), choose(1, 2, 2, 3)
        self.scores = SCORES[choose("few", "any", "equal", "close", "odd")]
        self.crowds, self.odd_areas = choose(0.0, 0.2, 0.4), choose(False, True)
        most_truths, most_found = choose(2, 4, 6, 8), choose(2, 8, 14)
        self.image_ids, self.category_ids = self._ids(self.images), self._ids(self.categories)
        self.annotations: list[dict[str, Any]] = []
        self.results: Results = []
        for image in range(1, self.images + 1):
            boxes = [self._annotation(image) for _ in range(rng.integers(most_truths + 1))]
            found = int(rng.integers(most_found + 1))
            for _ in range(found + (310 if rng.random() < 0.01 else 0)):  # now and then more than maxDets = 300
                self._result(image, boxes)
        order = rng.permutation(len(self.results))  # not image by image
        self.results = [self.results[i] for i in order]

    def _ids(self, count: int) -> list[int]:
        return [IDS[i] for i in sorted(self.rng.permutation(len(IDS))[:count])]

    def _annotation(self, image: int) -> list[float]:
        height, width = SIZES[self.rng.integers(len(SIZES))]
        y, x = int(self.rng.integers(SIDE - height + 1)), int(self.rng.integers(SIDE - width + 1))
        if self.rng.random() < 0.05:
            width = height = 0
        box, mask = [float(x), float(y), float(width), float(height)], self._mask(x, y, width, height)
        area = AREAS[self.rng.integers(len(AREAS))] if self.odd_areas else float(mask_utils.area(mask))
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": int(self.rng.integers(self.categories)) + 1,
                "segmentation": mask,
                "bbox": box,
                "area": area,
                "iscrowd": int(self.rng.random() < self.crowds),
            }
        )
        return box

    def _result(self, image: int, boxes: list[list[float]]) -> None:
        """On a ground truth, a part of it, beside it, anywhere, or empty."""
        rng, kind = self.rng, self.rng.random()
        height, width = SIZES[rng.integers(len(SIZES))]
        x, y = int(rng.integers(SIDE - width + 1)), int(rng.integers(SIDE - height + 1))
        if boxes and kind < 0.8:
            x, y, width, height = (int(value) for value in boxes[rng.integers(len(boxes))])
            if kind < 0.5:  # some twentieths of it
                width = width * int(rng.integers(8, 21)) // 20
            elif kind < 0.6:
                x, y = min(x + 1, SIDE - width), min(y + 2, SIDE - height)
        elif kind > 0.95:
            width = height = 0
        box = [float(x), float(y), float(width), float(height)]
        if rng.random() < 0.2:
            box = (np.array(box) + rng.normal(0, 2, 4)).tolist()  # also sides below 0
        result = {
            "image_id": image,
            "category_id": int(rng.integers(self.categories)) + 1,
            "score": self.scores[rng.integers(len(self.scores))],
        }
        shape = {"segmentation": self._mask(x, y, width, height)} if self.task == "segm" else {"bbox": box}
        self.results.append(result | shape)

    def _mask(self, x: int, y: int, width: int, height: int) -> dict[str, Any]:
        """A rectangle, now and then with holes."""
        mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
        mask[y : y + height, x : x + width] = 1
        if self.rng.random() < 0.2:
            mask &= NOISE
        rle = mask_utils.encode(mask)
        return {"size": [SIDE, SIDE], "counts": rle["counts"].decode("ascii")}

    def content(self) -> Content:
        return {
            "images": [{"id": image, "height": SIDE, "width": SIDE} for image in range(1, self.images + 1)],
            "categories": [{"id": category, "name": f"c{category}"} for category in range(1, self.categories + 1)],
            "annotations": self.annotations,
        }

    def with_ids(self) -> tuple[Content, Results]:
        """The same under ids of any size, in a file that is in no order; and boxes that "segm" has to ignore."""
        content = copy.deepcopy(self.content())
        for image in content["images"]:
            image["id"] = self.image_ids[image["id"] - 1]
        for category in content["categories"]:
            category["id"] = self.category_ids[category["id"] - 1]
        content["images"].reverse()
        content["categories"].reverse()
        results = [{"bbox": [0.0, 0.0, 99.0, 99.0], **result} for result in copy.deepcopy(self.results)]
        for entry in (*content["annotations"], *results):
            entry["image_id"] = self.image_ids[entry["image_id"] - 1]
            entry["category_id"] = self.category_ids[entry["category_id"] - 1]
        return content, results


def pycocotools_alone(content: Content, results: Results, task: Task, max_detections: int) -> COCOeval:
    """What anyone would write who has pycocotools and nothing of ours."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = opened(content)
        found = truth.loadRes(copy.deepcopy(results)) if results else opened({**content, "annotations": []})
        evaluation = COCOeval(truth, found, task)
        evaluation.params.maxDets = sorted({1, min(10, max_detections), max_detections})
        evaluation.evaluate()
        evaluation.accumulate()
        if max_detections == 100:
            evaluation.summarize()
    return evaluation


def opened(content: Content) -> COCO:
    coco = COCO()
    coco.dataset = copy.deepcopy(content)
    coco.createIndex()
    return coco


def assert_same(
    expected: COCOeval, content: Content, results: Results, task: Task, max_detections: int, evaluator: EvaluatorName
) -> None:
    truth = GroundTruth.of_file(content)

    curves = precision_recall(truth, results, task, max_detections=max_detections, evaluator=evaluator)

    np.testing.assert_array_equal(curves.precision, expected.eval["precision"])
    np.testing.assert_array_equal(curves.recall, expected.eval["recall"])
    assert list(curves.bounds) == expected.params.maxDets
    if max_detections == 100:
        metrics = standard_metrics(truth, results, task, max_detections=100, evaluator=evaluator)
        twelve = [100 * value if value > -1 else np.nan for value in expected.stats]
        np.testing.assert_allclose(list(metrics.values())[:12], twelve, rtol=0, atol=1e-9)


PUBLISHED: list[tuple[str, str, Task]] = [
    ("coco_val2014_fake100/instances_val2014_100.json", "instances_val2014_fakesegm100_results.json", "segm"),
    ("coco_val2014_fake100/instances_val2014_100.json", "instances_val2014_fakebbox100_results.json", "bbox"),
    ("fashionpedia_sample/sample.json", "fake_results.json", "segm"),
    ("faster_coco_eval_small/gt_dataset.json", "dt_dataset.json", "segm"),
    ("faster_coco_eval_small/gt_dataset.json", "dt_dataset.json", "bbox"),
]


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("max_detections", [1, 2, 100, 300])
@pytest.mark.parametrize(("truth", "detections", "task"), PUBLISHED)
def test_published_results(
    data_root: Path, truth: str, detections: str, task: Task, max_detections: int, evaluator: EvaluatorName
) -> None:
    file = data_root / "eval_fixtures" / truth
    content: Content = json.loads(file.read_text())
    results: Results = json.loads((file.parent / detections).read_text())
    if task == "segm":  # by itself pycocotools would take the area of a box that is given
        results = [{key: value for key, value in result.items() if key != "bbox"} for result in results]
        masks = GroundTruth.of_file({**content, "annotations": [{**r, "area": 0} for r in results]}).dataset
        results = [
            {**result, "segmentation": mask["segmentation"]}
            for result, mask in zip(results, masks["annotations"], strict=True)
        ]
    expected = pycocotools_alone(content, results, task, max_detections)
    assert (expected.eval["precision"] > 0).any()
    assert_same(expected, content, results, task, max_detections, evaluator)


def random_cases(count: int) -> Callable[[Any], Any]:
    """The same on every run."""
    chosen = settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    return lambda test: chosen(given(st.data())(test))


def assert_case(case: Case, evaluator: EvaluatorName) -> None:
    expected = pycocotools_alone(case.content(), case.results, case.task, case.max_detections)
    assert_same(expected, *case.with_ids(), case.task, case.max_detections, evaluator)


@random_cases(1000)
def test_hotcoco_on_random_cases(data: st.DataObject) -> None:
    assert_case(Case(data), "hotcoco")


@random_cases(50)
def test_pycocotools_by_us_on_random_cases(data: st.DataObject) -> None:
    assert_case(Case(data), "pycocotools")
