"""The evaluator's verbs, ground truth fed back as predictions, and instances to COCO results and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_cases import CATEGORIES, annotation, dataset, predictions, samples

from raytune_m2f.data import CocoDataset, load_coco
from raytune_m2f.data.masks import decode
from raytune_m2f.evaluation import CocoEvaluator, instances_to_results, results_to_json
from raytune_m2f.visualize import ground_truth_instances

HEADS = ("subcat_1", "subcat_2")


def assert_perfect(data: CocoDataset, *, max_detections: int = 100) -> None:
    """Ground truth fed back as predictions scores 100 in everything that has ground truth."""
    evaluator = CocoEvaluator(data, max_detections=max_detections)
    for sample, record in zip(samples(data), data.records, strict=True):
        evaluator.process([sample], [ground_truth_instances(record, data.categories)])
    metrics = evaluator.evaluate()
    annotations = [a for record in data.records for a in record.instances]
    assert metrics["segm/AP"] == pytest.approx(100.0)
    assert metrics["segm/AP75"] == pytest.approx(100.0)
    assert metrics[f"segm/AR{max_detections}"] == pytest.approx(100.0)
    for head in data.categories.subcategories:
        assert metrics[f"{head}/accuracy"] == 100.0
        assert metrics[f"{head}/matched"] == len(annotations)
        assert evaluator.evaluation.heads[head].confusion.sum() == len(annotations)
        for name in (f"AP_joint_{head}", f"AP_upper_{head}", "AP_all", "AP_all_upper"):
            assert metrics[f"segm/{name}"] == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["fruits_nuts", "nuclei_dsb", "coco_cc"])
def test_ground_truth_of_real_data_is_perfect(data_root: Path, name: str) -> None:
    folder = data_root / name
    assert_perfect(load_coco(name, folder / "annotations_val.json", folder / "val", HEADS), max_detections=200)


def test_ground_truth_of_exact_run_lengths_is_perfect(data_root: Path) -> None:
    folder = data_root / "nuclei_dsb"
    data = load_coco("nuclei", folder / "annotations_val_rle.json", folder / "val", HEADS)
    assert_perfect(data, max_detections=200)


def test_workers_share_images_and_agree_with_one_worker() -> None:
    data = dataset([annotation(1, 0)], [annotation(2, 1)], [annotation(3, 2)])
    outputs = [predictions([0, 9]), predictions([8, 1]), predictions([2])]
    inputs = samples(data)
    sent: dict[int, list[Any]] = {}

    def worker(rank: int, images: Sequence[int]) -> CocoEvaluator:
        def gather(mine: list[Any]) -> list[list[Any]]:
            sent[rank] = mine
            return [sent.get(0, []), sent.get(1, [])]

        evaluator = CocoEvaluator(data, bootstrap=20, gather=gather)
        evaluator.process([inputs[i] for i in images], [outputs[i] for i in images])
        return evaluator

    alone = CocoEvaluator(data, bootstrap=20)
    alone.process(inputs, outputs)
    expected = alone.evaluate()
    assert "segm/AP_se" in expected
    workers = [worker(1, [1, 0]), worker(0, [2, 0])]  # image 0 evens out the workers: it comes twice
    workers[0].evaluate()  # leaves what it sends, as a real gather would
    workers[1].evaluate()

    for evaluator in workers:
        assert evaluator.evaluate() == pytest.approx(expected, nan_ok=True)
        assert evaluator.results == alone.results


def test_an_image_counts_once() -> None:
    data = dataset([annotation(1, 0)])
    evaluator = CocoEvaluator(data)

    evaluator.process(samples(data) * 2, [predictions([0])] * 2)

    assert len(evaluator.results) == 1


def test_reset_forgets() -> None:
    data = dataset([annotation(1, 0)])
    evaluator = CocoEvaluator(data)
    evaluator.process(samples(data), [predictions([0])])
    assert evaluator.evaluate()["segm/AP"] == pytest.approx(100.0)

    evaluator.reset()

    assert evaluator.evaluate()["segm/AP"] == 0.0


def test_masks_of_another_size_are_refused() -> None:
    data = dataset([annotation(1, 0)])
    instances = predictions([0])
    smaller = type(instances)(instances.scores, instances.labels, torch.ones(1, 64, 64).bool(), instances.queries)

    with pytest.raises(ValueError, match=r"original size \(height, width\) = \(128, 128\), but got \(64, 64\)"):
        CocoEvaluator(data).process(samples(data), [smaller])


def test_ground_truth_of_synthetic_data_is_perfect(tiny_dataset: dict[str, Path]) -> None:
    data = load_coco("shapes", tiny_dataset["val_annotations"], tiny_dataset["val_images"], ("color", "texture"))
    assert_perfect(data)


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
        "colour_probabilities": pytest.approx([0.0, 0.0, 0.8]),
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
