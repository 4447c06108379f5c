"""Instances to COCO results and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from evaluation_cases import CATEGORIES, predictions

from raytune_m2f.data.masks import decode
from raytune_m2f.evaluation import instances_to_results, results_to_json


def test_a_result_says_all_of_an_instance() -> None:
    (result,) = instances_to_results(
        predictions([26], labels=[1], colours=[2], scores=[0.5]), image_id=10, categories=CATEGORIES
    )

    assert result.pop("segmentation")["size"] == [128, 128]
    assert result == {
        "image_id": 10,
        "category_id": 7,
        "bbox": [5.0, 5.0, 4.0, 4.0],
        "score": 0.5,
        "colour": 2,
        "colour_score": pytest.approx(0.8),
    }


def test_masks_survive_run_lengths_however_many() -> None:
    masks = torch.rand(300, 11, 17, generator=torch.Generator().manual_seed(0)) > 0.5
    instances = predictions(range(300))
    instances = type(instances)(instances.scores, instances.labels, masks, instances.queries)

    results = instances_to_results(instances, image_id=10, categories=CATEGORIES)

    decoded = decode([result["segmentation"] for result in results], 11, 17)
    assert torch.equal(torch.from_numpy(decoded.copy()).bool(), masks)


def test_no_instances_no_results() -> None:
    assert instances_to_results(predictions([]), image_id=10, categories=CATEGORIES) == []


@pytest.mark.parametrize("count", [0, 1, 3])
def test_json_holds_the_results(tmp_path: Path, count: int) -> None:
    results = instances_to_results(predictions(range(count)), image_id=10, categories=CATEGORIES)

    results_to_json(results, tmp_path / "results.json")

    assert json.loads((tmp_path / "results.json").read_text()) == results
