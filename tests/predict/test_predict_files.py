"""predict and evaluate: no file of the user's is written over, what can be read is done, and it can be read again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from raytune_m2f.config import Config
from raytune_m2f.data import load_coco, read_image
from raytune_m2f.errors import DatasetError, InputError, MissingDependencyError, UnreadableImagesError
from raytune_m2f.evaluation import instances_to_results, results_to_json
from raytune_m2f.export import ExportedModel, export_run, load_export
from raytune_m2f.predict import INSTANCES, Page, evaluate_export, find_images, picture_names, predict_files
from raytune_m2f.storage.files import is_ours
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial


@pytest.fixture(scope="module")
def model(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    folder = tmp_path_factory.mktemp("made")
    train_trial(tiny_config, TrialContext(folder / "run"))
    export_run(folder / "run", folder / "model")
    return load_export(folder / "model", torch.device("cpu"))


@pytest.fixture
def photos(tmp_path: Path, tiny_dataset: dict[str, Path]) -> Path:
    """Two images of the user's."""
    (tmp_path / "photos").mkdir()
    for number, name in enumerate(("a.png", "b.png"), start=1):
        shutil.copy(tiny_dataset["val_images"] / f"{number:05d}.png", tmp_path / "photos" / name)
    return tmp_path / "photos"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("output", ["photos", "photos/", "photos/../photos", "link", "."])
def test_the_folder_of_the_images_is_no_output(
    model: ExportedModel, photos: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    (photos.parent / "link").symlink_to("photos")
    monkeypatch.chdir(photos if output == "." else photos.parent)
    before = contents(photos)
    with pytest.raises(InputError, match="is the folder of the images"):
        predict_files(model, [photos], Path(output))
    assert contents(photos) == before


@pytest.mark.parametrize("kind", ["same", "symlink", "hard link", "of another name"])
def test_an_image_is_never_written_over(model: ExportedModel, photos: Path, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    output.mkdir()
    given = [photos / "b.png", photos / "a.png"]
    if kind == "same":
        output = photos
    elif kind == "symlink":
        (output / "a.png").symlink_to(photos / "a.png")
    elif kind == "hard link":
        os.link(photos / "a.png", output / "a.png")
    else:
        shutil.copy(photos / "a.png", output / "b.png")
        given = [output / "b.png", photos / "b.png", photos / "a.png"]
        (output / "photos_b.png").symlink_to(output / "b.png")
    before = contents(tmp_path)
    with pytest.raises(InputError, match=r"would be written over the image .*\.png"):
        predict_files(model, given, output)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["a.png", INSTANCES])
def test_other_files_of_the_users_are_not_written_over_but_ours_are(
    model: ExportedModel, photos: Path, tmp_path: Path, name: str
) -> None:
    output = tmp_path / "out"
    for threshold in (0.5, 0.0):
        predict_files(model, [photos], output, min_score=threshold)
    assert all(is_ours(path) for path in output.iterdir())
    if name == INSTANCES:  # labels that were corrected by hand
        content = json.loads((output / name).read_text())
        content["annotations"] = content["annotations"][:1]
        (output / name).write_text(json.dumps(content) + "\n")
    else:  # a picture that was drawn on
        Image.fromarray(read_image(output / name)).convert("L").save(output / name)
    before = contents(output)
    with pytest.raises(InputError, match=rf"{name} would be written over, but it is not from raytune_m2f"):
        predict_files(model, [photos], output)
    assert contents(output) == before


def test_what_is_no_image_is_named_and_the_others_are_done(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "0_cut.png").write_bytes(whole[: len(whole) // 2])
    (photos / "c_text.jpg").write_text("no image")
    (photos / "d_empty.png").touch()
    (photos / "e_folder.png").mkdir()
    os.mkfifo(photos / "f_pipe.png")
    seen: list[int] = []
    with pytest.raises(UnreadableImagesError) as caught:
        predict_files(model, [photos], tmp_path / "out", progress=lambda done, total, name: seen.append(done))
    first, *named = str(caught.value).splitlines()
    assert first.startswith("5 of 7 images were left out")
    assert first.endswith(f"{INSTANCES} has the other 2:")
    assert [line.split(" cannot")[0].rpartition("/")[2] for line in named] == [
        "0_cut.png", "c_text.jpg", "d_empty.png", "e_folder.png", "f_pipe.png",
    ]  # fmt: skip
    assert caught.value.exit_code == 1
    assert seen == list(range(1, 8))
    content = json.loads((tmp_path / "out" / INSTANCES).read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    with pytest.raises(DatasetError, match="1 of 1 images were left out; nothing was written"):
        predict_files(model, [photos / "d_empty.png"], tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_what_was_done_is_written_when_it_is_interrupted(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    def progress(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    for number in range(20):
        shutil.copy(photos / "a.png", photos / f"{number}.png")
    with pytest.raises(KeyboardInterrupt):
        predict_files(model, [photos], tmp_path / "out", progress=progress)
    done = {i["file_name"] for i in json.loads((tmp_path / "out" / INSTANCES).read_text())["images"]}
    assert done == {file.name for file in (tmp_path / "out").glob("*.png")}
    assert 1 <= len(done) < 22


def test_predictions_are_annotations(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    shutil.copy(photos / "a.png", tmp_path / "more" / "a.png")
    for given, folder, names in (
        ([photos], photos, ["a.png", "b.png"]),
        ([photos / "b.png"], photos, ["b.png"]),
        ([photos, tmp_path / "more"], tmp_path, ["photos/a.png", "photos/b.png", "more/a.png"]),
    ):
        output = tmp_path / f"out{len(names)}"
        content = predict_files(model, given, output, min_score=0.0)
        assert content["info"]["images"] == str(folder)
        assert [image["file_name"] for image in content["images"]] == names
        assert all(annotation["area"] > 0 for annotation in content["annotations"])
        again = load_coco("again", output / INSTANCES, folder, ["color", "texture"])
        assert len(again) == len(names)
        assert again.categories == model.categories
        evaluate_export(model, output / INSTANCES, folder).evaluate()


def test_predictions_load_as_results_of_the_annotation_file(
    model: ExportedModel, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    evaluator = evaluate_export(model, tiny_dataset["val_annotations"], tiny_dataset["val_images"])
    results_to_json(evaluator.results, tmp_path / "predictions.json")
    truth = COCO(str(tiny_dataset["val_annotations"]))
    loaded = truth.loadRes(str(tmp_path / "predictions.json"))
    assert len(loaded.anns) == len(evaluator.results) > 0
    assert set(loaded.getImgIds()) == set(truth.getImgIds())


def test_an_export_is_scored_by_the_evaluator_of_its_configuration(
    model: ExportedModel, tiny_dataset: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = tiny_dataset["val_annotations"], tiny_dataset["val_images"]
    expected = evaluate_export(model, *paths).evaluate()
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(MissingDependencyError, match=r"of an exported model: in its config\.yaml"):
        evaluate_export(model, *paths)
    config = model.config.with_values({"TEST.EVALUATOR": "pycocotools"}, source="test")
    assert evaluate_export(replace(model, config=config), *paths).evaluate() == pytest.approx(expected, nan_ok=True)


def test_masks_one_at_a_time_are_the_masks_all_at_once(model: ExportedModel, photos: Path) -> None:
    pixels = read_image(photos / "a.png")
    packed = model.predict_encoded(pixels)
    (whole,) = model.predict([model.resized(pixels)], [pixels.shape[:2]])
    assert torch.equal(packed.scores, whole.scores)
    one, other = (instances_to_results(given, image_id=1, categories=model.categories) for given in (packed, whole))
    assert one == other


def test_a_large_image_is_shrunk_for_its_picture_alone(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    Image.fromarray(read_image(photos / "a.png")).resize((1600, 1200)).save(photos / "a.png")
    before = predict_files(model, [photos / "a.png"], tmp_path / "full", min_score=0.0)
    after = predict_files(model, [photos / "a.png"], tmp_path / "shrunk", min_score=0.0, max_picture_pixels=800 * 600)
    assert after["annotations"] == before["annotations"]
    full, shrunk = (read_image(tmp_path / folder / "a.png") for folder in ("full", "shrunk"))
    assert full.shape == (1200, 1600, 3)
    assert shrunk.shape[1] < 1000
    one, other = (np.asarray(Image.fromarray(drawn).resize((800, 600)), float) for drawn in (full, shrunk))
    assert np.abs(one - other).mean() < 25


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_a_score_on_a_part_is_no_score(
    model: ExportedModel, tiny_dataset: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "val"
    shutil.copytree(tiny_dataset["val_images"], folder)
    for name in ("00002.png", "00005.png"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"text" if damage == "text" else content[: len(content) - 200])
    seen: list[str] = []
    with pytest.raises(DatasetError, match=r"2 of 6 images cannot be used(.|\n)*00002\.png(.|\n)*00005\.png"):
        evaluate_export(
            model, tiny_dataset["val_annotations"], folder, progress=lambda done, total, name: seen.append(name)
        )
    assert seen == ([] if damage == "text" else ["00001.png"])


def test_names_of_pictures(tmp_path: Path) -> None:
    def names(*files: str) -> list[str]:
        return list(picture_names([Page(tmp_path / file) for file in files]).values())

    assert names("...png", "x.jpg", ".hidden.tif") == ["...png", "x.png", ".hidden.png"]
    assert names("p/a.png", "p/a.jpg", "p/b.png") == ["p_a.png.png", "p_a.jpg.png", "b.png"]
    assert names("p/x.png", "q/x.png") == ["p_x.png", "q_x.png"]
    assert names("r/p/x.png", "s/p/x.png") == ["r_p_x.png", "s_p_x.png"]
    assert names("p/A.png", "q/a.png") == ["p_A.png", "q_a.png"]
    assert names("a/b/c/x.png", "z/b/c/x.png") == ["000001_x.png", "000002_x.png"]
    long = names("p/" + "x" * 251 + ".jpg", "q/" + "x" * 251 + ".png", "x" * 255)
    assert len(set(long)) == 3
    assert all(len(name) <= 255 and name.endswith(".png") for name in long)


def test_strange_names_are_predicted(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    strange = ["...png", "two\nlines.png", "苹果 [bold].png", os.fsdecode(b"latin-1 \xe9.png"), "x" * 251 + ".png"]
    for name in strange:
        shutil.copy(photos / "a.png", photos / name)
    content: dict[str, Any] = predict_files(model, [photos], tmp_path / "out")
    assert {image["file_name"] for image in content["images"]} == {*strange, "a.png", "b.png"}
    assert json.loads((tmp_path / "out" / INSTANCES).read_text()) == content
    assert len(list((tmp_path / "out").glob("*.png"))) == 7


def test_an_image_that_is_given_twice_is_predicted_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert [file.name for file in find_images([photos, Path("a.png"), photos / "a.png"])] == ["a.png", "b.png"]
