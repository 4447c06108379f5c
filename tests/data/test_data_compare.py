"""Annotation files to score a model by: what may differ from the model's labels, and how it is matched."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from raytune_m2f.data import Categories, CocoDataset, load_for_model
from raytune_m2f.errors import DatasetError
from raytune_m2f.evaluation import evaluate_results

MODEL = Categories((1, 2), ("red", "blue"), {"ripeness": ("green", "ripe"), "size": ("small", "large")})
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]


def content(**changes: Any) -> dict[str, Any]:
    common = {"image_id": 5, "iscrowd": 0, "bbox": [2, 2, 10, 10], "area": 100, "segmentation": [SQUARE]}
    far = {**common, "bbox": [22, 2, 10, 10], "segmentation": [[22, 2, 32, 2, 32, 12, 22, 12]]}
    return {
        "images": [{"id": 5, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
        "subcategories": {"ripeness": ["green", "ripe"], "size": ["small", "large"]},
        "annotations": [
            {"id": 1, "category_id": 1, "ripeness": 0, "size": 1, **common},
            {"id": 2, "category_id": 2, "ripeness": 1, "size": 1, **far},
        ],
        **changes,
    }


@pytest.fixture
def load(tmp_path: Path) -> Callable[[dict[str, Any]], CocoDataset]:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "images" / "a.png")

    def write_and_load(given: dict[str, Any]) -> CocoDataset:
        (tmp_path / "val.json").write_text(json.dumps(given))
        return load_for_model(MODEL, tmp_path / "val.json", tmp_path / "images")

    return write_and_load


def labels(dataset: CocoDataset) -> list[tuple[str, dict[str, int]]]:
    names = dataset.categories.names
    return [(names[a.label], a.sublabels) for r in dataset.records for a in r.annotations]


def test_the_same_labels_are_left_as_they_are(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="raytune_m2f"):
        dataset = load(content())
    assert dataset.categories == MODEL
    assert labels(dataset) == [("red", {"ripeness": 0, "size": 1}), ("blue", {"ripeness": 1, "size": 1})]
    assert "what was read: val" in caplog.text
    assert "WARNING" not in caplog.text


def test_a_plain_coco_file_is_scored_without_heads(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    plain = content()
    del plain["subcategories"]
    for annotation in plain["annotations"]:
        del annotation["ripeness"], annotation["size"]
    dataset = load(plain)
    assert labels(dataset) == [("red", {}), ("blue", {})]
    assert "no labels of the subcategories ripeness, size: they are not scored" in caplog.text
    assert set(evaluate_results(dataset, []).heads) == set()


def test_a_file_with_some_heads_is_scored_by_these(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert labels(load(content(subcategories={"size": ["small", "large"]})))[0] == ("red", {"size": 1})
    assert "subcategories ripeness: they are not scored" in caplog.text


def test_a_head_that_is_listed_and_never_labelled_is_not_scored(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    some = content()
    for annotation in some["annotations"]:
        del annotation["ripeness"]
    assert load(some).categories.subcategories == {"size": ("small", "large")}
    assert "subcategories ripeness: they are not scored" in caplog.text


def test_labels_are_matched_by_name(load: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The file has other ids, its categories and one head's classes in another order."""
    other = content(
        categories=[{"id": 30, "name": "red"}, {"id": 7, "name": "blue"}],
        subcategories={"ripeness": ["ripe", "green"], "size": ["small", "large"]},
    )
    other["annotations"][0] |= {"category_id": 30, "ripeness": 1}
    other["annotations"][1] |= {"category_id": 7, "ripeness": 0}
    dataset = load(other)
    assert labels(dataset) == labels(load(content()))
    assert dataset.categories.names == MODEL.names
    assert dataset.categories.ids == (30, 7)  # results have the file's ids
    assert dataset.categories.subcategories == MODEL.subcategories
    assert "in another order: they are matched by name" in caplog.text
    found: list[dict[str, Any]] = [
        {"image_id": 5, "category_id": dataset.categories.ids[a.label], "segmentation": a.rle(30, 40), "score": 1.0,
         **a.sublabels} for a in dataset.records[0].annotations
    ]  # fmt: skip
    for result in found:
        result |= {
            f"{head}_probabilities": [float(result[head] == c) for c in range(2)] for head in MODEL.subcategories
        }
    metrics = evaluate_results(dataset, found).metrics
    for name in ("AP-red", "AP_all", "AP_joint_ripeness", "AP_joint_size"):
        assert metrics[f"segm/{name}"] == pytest.approx(100), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "pink"}]},
         "categories: only the model has blue\n  categories: only the file has pink"),
        ({"categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}, {"id": 3, "name": "pink"}]},
         "categories: only the file has pink"),
        ({"subcategories": {"size": ["small", "large", "huge"]}}, "classes of 'size': only the file has huge"),
        ({"subcategories": -1}, "'subcategories' must be an object"),
        ({"annotations": []}, "nothing to find in .*val.json: 1 images, but no annotation"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(load: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load(content(**changes))


def test_crowds_alone_are_nothing_to_find(load: Any) -> None:
    crowds = content()
    for annotation in crowds["annotations"]:
        annotation["iscrowd"] = 1
    with pytest.raises(DatasetError, match="all 2 annotations are crowds"):
        load(crowds)


def test_labels_in_another_field_are_refused_not_left_out(load: Any) -> None:
    elsewhere = content()
    for annotation in elsewhere["annotations"]:
        annotation["Size"] = annotation.pop("size")
    with pytest.raises(DatasetError, match=r"another place: Size: 1 \(2\)"):
        load(elsewhere)
