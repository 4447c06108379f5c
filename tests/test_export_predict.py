"""From a trained run to a directory that predicts and evaluates on its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raytune_m2f.config import Config
from raytune_m2f.data import load_coco
from raytune_m2f.errors import DatasetError, InputError, ModelError
from raytune_m2f.export import export_run, load_export
from raytune_m2f.predict import INSTANCES, RESULTS, evaluate_export, find_images, predict_files
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    # evaluated one image at a time, as an export is: the same numbers on any processor
    train_trial(tiny_config.with_values({"TEST.IMS_PER_BATCH": 1}), TrialContext(output))
    return output


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("exported") / "model"
    export_run(run, output)
    return output


def test_an_export_holds_the_best_checkpoint(run: Path, exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert names == {"model.safetensors", "model.pth", "config.yaml", "categories.json", "metrics.json", "README.md"}
    best = max(read_reports(run), key=lambda report: report["segm/AP"])
    assert json.loads((exported / "metrics.json").read_text()) == best
    weights = torch.load(exported / "model.pth", weights_only=True)["model"]
    for name, value in checkpoint.load(run / "checkpoints/best.pth")["model"].items():
        assert torch.equal(weights[name], value)
    assert "disc, ring, cross" in (exported / "README.md").read_text()


def test_an_export_scores_what_its_report_says(exported: Path, tiny_dataset: dict[str, Path]) -> None:
    evaluator = evaluate_export(load_export(exported, CPU), tiny_dataset["val_annotations"], tiny_dataset["val_images"])
    report = json.loads((exported / "metrics.json").read_text())
    metrics = evaluator.evaluate()
    assert metrics["segm/AP"] == pytest.approx(report["segm/AP"], abs=1e-9)
    assert set(evaluator.evaluation.heads) == {"color", "texture"}


def test_predictions_are_pictures_and_a_coco_file(
    exported: Path, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    calls: list[tuple[int, int, str]] = []
    content = predict_files(
        load_export(exported, CPU),
        [tiny_dataset["val_images"]],
        tmp_path,
        min_score=0.0,
        progress=lambda *done: calls.append(done),
    )
    assert calls == [(i, 6, f"{i:05d}.png") for i in range(1, 7)]
    seen = [name for _, _, name in calls]
    assert sorted(path.name for path in tmp_path.iterdir()) == [*seen, INSTANCES, RESULTS]
    with Image.open(tmp_path / seen[0]) as picture:
        assert min(picture.size) >= 480
    assert json.loads((tmp_path / INSTANCES).read_text()) == content
    assert len(content["annotations"]) > 0
    # it is a COCO dataset like any other: our own reader takes it
    for image in content["images"]:
        image["file_name"] = Path(image["file_name"]).name
    content["annotations"] = [a for a in content["annotations"] if a["area"] > 0]
    (tmp_path / "again.json").write_text(json.dumps(content))
    again = load_coco("again", tmp_path / "again.json", tiny_dataset["val_images"], ["color", "texture"])
    assert len(again) == 6


def test_a_threshold_leaves_out_what_is_below(exported: Path, tiny_dataset: dict[str, Path], tmp_path: Path) -> None:
    content = predict_files(load_export(exported, CPU), [tiny_dataset["val_images"]], tmp_path, min_score=1.0)
    assert content["annotations"] == []


def test_images_of_one_name_in_two_folders_keep_apart(exported: Path, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / folder / "x.png")
    predict_files(load_export(exported, CPU), [tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a_x.png", "b_x.png"]


def test_what_cannot_be_exported_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ModelError, match=r"has no checkpoints/best.pth"):
        export_run(tmp_path / "nothing", tmp_path / "model")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").touch()
    with pytest.raises(ModelError, match="is no export"):
        export_run(run, tmp_path / "taken")
    assert (tmp_path / "taken" / "thesis.txt").exists()


def test_what_cannot_be_loaded_is_named(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"it has no model.safetensors, config.yaml, categories.json"):
        load_export(tmp_path)
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "categories.json").write_text("{")
    with pytest.raises(ModelError, match=r"categories.json is no JSON"):
        load_export(tmp_path, CPU)
    (tmp_path / "categories.json").write_bytes((exported / "categories.json").read_bytes())
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.pth").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"model.pth does not fit"):
        load_export(tmp_path, CPU)


def test_annotations_with_other_labels_are_refused(
    exported: Path, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    content = json.loads(tiny_dataset["val_annotations"].read_text())
    content["categories"][0]["name"] = "hexagon"
    (tmp_path / "other.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="hexagon"):
        evaluate_export(load_export(exported, CPU), tmp_path / "other.json", tiny_dataset["val_images"])


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image"):
        find_images([tmp_path / "missing.png"])
    with pytest.raises(InputError, match="no image to predict"):
        find_images([tmp_path])
