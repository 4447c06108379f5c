"""The benchmark on small data sets: what it measures is right, and a run leaves what it promises."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks import real
from benchmarks.real import Laps, head_figures, score
from benchmarks.threshold import find_objects, flood, majority, otsu, threshold_results
from raytune_m2f.data import CocoDataset, load_coco
from raytune_m2f.evaluation import Result, instances_to_results
from raytune_m2f.evaluation.subcategories import HeadEvaluation
from raytune_m2f.visualize import ground_truth_instances

TINY = [
    "MODEL.RESNETS.NORM=GN",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM=32",
    "MODEL.SEM_SEG_HEAD.MASK_DIM=32",
    "MODEL.MASK_FORMER.HIDDEN_DIM=32",
    "MODEL.MASK_FORMER.NHEADS=4",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES=8",
    "INPUT.IMAGE_SIZE=64",
    "INPUT.MAX_SIZE_TEST=64",
    "SOLVER.IMS_PER_BATCH=2",
    "TEST.EVAL_PERIOD=2",
]


@pytest.fixture
def folder(tiny_dataset: dict[str, Path], tmp_path: Path) -> Path:
    """A data set in the layout that a user lays out."""
    root = tmp_path / "mine"
    for split in ("train", "val"):
        shutil.copytree(tiny_dataset[f"{split}_images"], root / split)
        shutil.copy(tiny_dataset[f"{split}_annotations"], root / f"annotations_{split}.json")
    return root


@pytest.fixture
def truth(tiny_dataset: dict[str, Path]) -> CocoDataset:
    return load_coco("val", tiny_dataset["val_annotations"], tiny_dataset["val_images"], ["color", "texture"])


def perfect(truth: CocoDataset) -> Iterator[Result]:
    for record in truth.records:
        instances = ground_truth_instances(record, truth.categories)
        yield from instances_to_results(instances, image_id=record.id, categories=truth.categories)


def test_a_run_leaves_figures_a_table_and_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, picture = tmp_path / "out", tmp_path / "picture.png"
    words = [str(folder), "--seeds", "3", "--iters", "3", "--baseline", "--output", str(output), *TINY]
    real.main([*words, "--picture", str(picture)])
    trained, baseline = map(json.loads, (output / "mine" / "results.jsonl").read_text().splitlines())
    assert (trained["seed"], baseline["seed"], trained["set"]) == (3, None, "mine")
    assert [point[0] for point in trained["curve"]] == [2, 3]
    assert trained["overrides"] == [*TINY, "SOLVER.MAX_ITER=3"]
    assert {"commit", "hardware", "versions", "date"} <= trained.keys()
    for name in ("AP", "AP50, interval to", "AP, categories left aside", "color, found", "training, images/s"):
        assert trained["figures"][name] >= 0, name
    assert baseline["figures"]["AP, categories left aside"] > 1
    table = (output / "mine" / "table.md").read_text()
    assert "|  | seed 3 | threshold | mean | spread |" in table
    assert "| iteration | AP / AP50, seed 3 | AP, mean |" in table
    assert picture.stat().st_size < real.LARGEST_PICTURE
    with Image.open(output / "mine" / "sheet.png") as sheet:
        assert sheet.width > 1000

    monkeypatch.setattr(real, "run_seed", None)  # a seed that is there is read
    real.main(words)
    assert table.split("\n\n", 1)[1] == (output / "mine" / "table.md").read_text().split("\n\n", 1)[1]
    with pytest.raises(SystemExit):
        real.main([*words, "SOLVER.BASE_LR=1e-4"])
    assert "is of other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["nowhere"], "nowhere/annotations_train.json is missing"),
        (["fruits_nuts"], "RAYTUNE_M2F_DATA is not set"),
        (["shapes", "--seeds"], "there is nothing to do without --baseline"),
    ],
)
def test_what_cannot_be_run_is_one_error(
    words: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAYTUNE_M2F_DATA", raising=False)
    with pytest.raises(SystemExit):
        real.main(words)
    assert complaint in capsys.readouterr().err


def test_the_configuration_says_nothing_but_where_the_data_are(folder: Path, tmp_path: Path) -> None:
    config = real.find_set(str(folder), tmp_path).config("small_data")
    assert config["_BASE_"] == "small_data"
    assert config.keys() == {"_BASE_", "DATASETS"}
    assert config["DATASETS"]["SUBCATEGORIES"] == ["color", "texture"]


def test_perfect_predictions_score_a_hundred(truth: CocoDataset) -> None:
    figures = score(truth, list(perfect(truth)), 100)
    for name in ("AP", "AP50", "AP50, interval from", "AP, disc", "color, accuracy", "texture, balanced accuracy"):
        assert figures[name] == pytest.approx(100), name
    assert figures["AP, standard error"] == pytest.approx(0)
    assert figures["color, found"] == sum(len(record.instances) for record in truth.records)


def test_nothing_found_scores_nothing(truth: CocoDataset) -> None:
    figures = score(truth, [], 100)
    assert figures["AP"] == figures["AP50"] == figures["AP50, interval to"] == 0
    assert figures["color, accuracy"] is None


def test_a_head_stands_beside_its_majority_class() -> None:
    head = HeadEvaluation(("green", "ripe", "rotten"), 100, np.array([[8, 2, 0], [1, 1, 0], [0, 0, 0]]))
    figures = head_figures(head, [0] * 60 + [1] * 40)
    assert figures == pytest.approx(
        {
            "accuracy": 75,
            "majority class": 60,
            "majority class of the found": 1000 / 12,
            "balanced accuracy": 65,
            "balanced accuracy of one class": 50,
            "found": 12,
        }
    )


def test_the_rate_leaves_evaluations_out(monkeypatch: pytest.MonkeyPatch) -> None:
    laps = Laps(period=2)
    for done, now in ((1, 10.0), (2, 11.0), (2, 40.0), (3, 42.0), (4, 43.5)):
        monkeypatch.setattr(time, "monotonic", lambda now=now: now)
        laps(done, 4)
    assert (laps.steps, laps.seconds) == (2, 2.5)


def discs(*centres: tuple[int, int], radius: int = 10) -> NDArray[np.bool_]:
    y, x = np.mgrid[:50, :80]
    return np.array([(y - a) ** 2 + (x - b) ** 2 <= radius**2 for a, b in centres])


@pytest.mark.parametrize("bright", [True, False])
def test_touching_objects_are_parted(bright: bool) -> None:
    whole = discs((25, 25), (25, 43), (12, 65))
    image = np.where(whole.any(axis=0), 200, 30).astype(np.uint8)
    masks, scores = find_objects(np.repeat((image if bright else 255 - image)[..., None], 3, axis=2))
    assert len(masks) == len(scores) == 3
    for truth in whole:
        assert max((mask & truth).sum() / (mask | truth).sum() for mask in masks) > 0.85


def test_an_even_image_has_no_objects() -> None:
    assert len(find_objects(np.full((20, 20, 3), 80, np.uint8))[0]) == 0


def test_otsu_parts_two_groups() -> None:
    assert 20 <= otsu(np.array([10, 12, 20, 200, 210, 220], np.uint8)) < 200


def test_flooding_stays_within_the_objects() -> None:
    objects = np.logical_or(*discs((25, 25), (25, 43)))
    seeds = np.zeros(objects.shape, np.int32)
    seeds[25, 25], seeds[25, 43] = 1, 2
    depth = discs((25, 25), (25, 43), radius=6).any(axis=0).astype(float)
    parts = flood(depth, seeds, objects)
    assert ((parts > 0) == objects).all()
    assert (parts[25, :31] <= 1).all()
    assert (parts[25, 38:] != 1).all()


def test_the_threshold_gives_the_majority_of_the_training_labels(truth: CocoDataset) -> None:
    results = threshold_results(truth, truth.records[:2])
    label = majority(annotation.label for record in truth.records for annotation in record.instances)
    assert {result["category_id"] for result in results} == {truth.categories.ids[label]}
    assert majority([-1, 2, 2, 1, 1]) == 1
