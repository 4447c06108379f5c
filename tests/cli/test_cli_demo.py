"""The demo: pictures of the truth, the check of its export, and (slow) the whole of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from raytune_m2f.cli import demo
from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.data import load_coco
from raytune_m2f.errors import RaytuneM2FError
from raytune_m2f.visualize import ground_truth_instances
from raytune_m2f.visualize.overlay import certain_probabilities


def test_true_masks_and_labels_are_drawn_as_certain_instances(tiny_dataset: dict[str, Path], tmp_path: Path) -> None:
    heads = ("color", "texture")
    dataset = load_coco("val", tiny_dataset["val_annotations"], tiny_dataset["val_images"], heads)
    record = dataset.records[0]
    truth = ground_truth_instances(record, dataset.categories)
    assert truth.scores.tolist() == [1.0] * len(record.annotations)
    assert truth.labels.tolist() == [annotation.label for annotation in record.annotations]
    for annotation, mask in zip(record.annotations, truth.masks, strict=True):
        assert torch.equal(mask, torch.from_numpy(annotation.mask(record.height, record.width)))
    for head in heads:
        assert truth.sublabels[head].tolist() == [annotation.sublabels[head] for annotation in record.annotations]
    assert certain_probabilities([-1, 1], 3).tolist() == [[0, 0, 0], [0, 1, 0]], "an unknown label is not named"
    demo.draw_truth(dataset, tmp_path / "data.png")
    assert np.asarray(Image.open(tmp_path / "data.png")).std() > 10


def test_an_export_that_scores_otherwise_than_its_trial_fails_the_demo() -> None:
    demo.require_equal(23.151, 23.15)
    with pytest.raises(RaytuneM2FError, match=r"scores segm AP 23\.2000, and its trial reported 23\.1500") as caught:
        demo.require_equal(23.20, 23.15)
    assert caught.value.exit_code == 1
    with pytest.raises(RaytuneM2FError):
        demo.require_equal(float("nan"), 23.15)


def test_a_folder_with_something_in_it_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    result = CliRunner().invoke(app, ["demo", "--output", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_of_it_in_short(
    tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = tiny_config.to_dict()
    content["DATASETS"].update(TRAIN=["shapes_train"], TEST=["shapes_val"])
    content["DATASETS"]["REGISTER"] = {
        f"shapes_{name}": {"annotations": f"data/{name}.json", "images": f"data/{name}"} for name in ("train", "val")
    }
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(demo, "shipped_configs", lambda: {"demo": config, "demo_full": config})
    study = demo.run_demo(tmp_path / "demo", trials=3, seed=0)
    assert len(study.trials) == 3
    left = {path.name for path in (tmp_path / "demo").iterdir()}
    assert left >= {"data", "data.png", "demo.yaml", "study", "model", "predictions", "predictions.png", "report.html"}
    assert "evaluated: the same segm AP as its trial reported" in capsys.readouterr().out
