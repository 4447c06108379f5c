"""predict: batches, pages, 16 bits, patterns, sieves and lines give what images one by one give."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from torch import Tensor
from typer.testing import CliRunner

from raytune_m2f.api.models import load_model
from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.data import read_image
from raytune_m2f.errors import ConfigError, DatasetError, InputError, UnreadableImagesError
from raytune_m2f.export import ExportedModel, export_run, load_export
from raytune_m2f.predict import INSTANCES, RESULTS, find_images, predict_files, with_overrides
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial


@pytest.fixture(scope="module")
def folder(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model."""
    made = tmp_path_factory.mktemp("made")
    train_trial(tiny_config, TrialContext(made / "run"))
    export_run(made / "run", made / "model")
    return made / "model"


@pytest.fixture(scope="module")
def model(folder: Path) -> ExportedModel:
    return load_export(folder, torch.device("cpu"))


@pytest.fixture
def photos(tmp_path: Path, tiny_dataset: dict[str, Path]) -> Path:
    """Six images of three shapes, in turn."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, file in enumerate(sorted(tiny_dataset["val_images"].glob("*.png"))):
        width, height = ((64, 64), (96, 64), (64, 80))[number % 3]
        Image.fromarray(read_image(file)).resize((width, height)).save(photos / f"{number}.png")
    return photos


def found_in(content: dict[str, Any], name: str, page: int | None = None) -> list[dict[str, Any]]:
    """The annotations of an image, without their numbers."""
    (image,) = (i["id"] for i in content["images"] if i["file_name"] == name and i.get("page") == page)
    without = ("id", "image_id")
    of_image = (a for a in content["annotations"] if a["image_id"] == image)
    return [{key: value for key, value in each.items() if key not in without} for each in of_image]


def assert_same(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one["segmentation"] == other["segmentation"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert (one["category_id"], one["color"]) == (other["category_id"], other["color"])


@pytest.mark.parametrize("held", [2**28, 1], ids=["ahead", "one at a time"])
def test_batches_hold_images_of_one_size_and_give_what_single_images_give(
    model: ExportedModel, photos: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr("raytune_m2f.predict.pipeline.HELD_BYTES", held)
    batches: list[list[tuple[int, ...]]] = []
    predict_batch = ExportedModel.predict_batch

    def watched(self: ExportedModel, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Any:
        batches.append([tuple(image.shape) for image in images])
        return predict_batch(self, images, sizes)

    monkeypatch.setattr(ExportedModel, "predict_batch", watched)
    content = predict_files(with_overrides(model, batch=2), [photos], None, min_score=0.0)
    assert [len(batch) for batch in batches] == ([2, 2, 2] if held > 1 else [1] * 6)
    assert all(len(set(batch)) == 1 for batch in batches)
    assert [image["file_name"] for image in content["images"]] == [f"{number}.png" for number in range(6)]
    for file in photos.iterdir():
        single = predict_files(model, [file], None, min_score=0.0)
        assert_same(found_in(content, file.name), found_in(single, file.name))


def test_several_batches_at_once_give_what_one_after_another_gives(
    model: ExportedModel, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two cores has a batch: both are in the network at the same time, or the barrier would break."""
    model = with_overrides(model, batch=1)
    expected = predict_files(model, [photos], None, min_score=0.0)
    together, predict_batch = Barrier(2, timeout=60), ExportedModel.predict_batch

    def watched(self: ExportedModel, images: Sequence[Tensor], sizes: Sequence[tuple[int, int]]) -> Any:
        together.wait()
        assert torch.get_num_threads() == 1
        return predict_batch(self, images, sizes)

    monkeypatch.setattr(ExportedModel, "predict_batch", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        content = predict_files(model, [photos], None, min_score=0.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert content["images"] == expected["images"]
    for file in photos.iterdir():
        assert_same(found_in(content, file.name), found_in(expected, file.name))


@dataclass(frozen=True)
class SmallGpu(ExportedModel):
    """A model on a GPU that has room for so many images."""

    room: int = 1

    def predict_batch(self, images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]]) -> Any:
        if len(images) > self.room:
            raise torch.OutOfMemoryError
        return super().predict_batch(images, original_sizes)


def test_what_does_not_fit_the_gpu_is_done_in_smaller_batches_or_named(model: ExportedModel, photos: Path) -> None:
    parts = with_overrides(model, batch=4)
    expected = predict_files(parts, [photos], None)
    small = SmallGpu(parts.model, parts.config, parts.categories, parts.device)
    assert [i["file_name"] for i in predict_files(small, [photos], None)["images"]] == [
        i["file_name"] for i in expected["images"]
    ]
    with pytest.raises(DatasetError, match=r"6 of 6 images(.|\n)*0\.png cannot be predicted(.|\n)*--device cpu"):
        predict_files(SmallGpu(parts.model, parts.config, parts.categories, parts.device, room=0), [photos], None)


def test_every_page_is_an_image(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    pages = [Image.open(photos / f"{number}.png") for number in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    content = predict_files(model, [tmp_path / "stack.tif", photos / "0.png"], tmp_path / "out", min_score=0.0)
    assert [(i["file_name"], i.get("page")) for i in content["images"]] == [
        ("stack.tif", 1), ("stack.tif", 2), ("stack.tif", 3), ("photos/0.png", None),
    ]  # fmt: skip
    for number in range(3):
        single = predict_files(model, [photos / f"{number}.png"], None, min_score=0.0)
        assert_same(found_in(content, "stack.tif", number + 1), found_in(single, f"{number}.png"))
    names = {file.name for file in (tmp_path / "out").glob("*.png")}
    assert names == {"stack_page1.png", "stack_page2.png", "stack_page3.png", "0.png"}


def test_a_page_that_cannot_be_read_is_named_and_the_others_are_done(
    model: ExportedModel, photos: Path, tmp_path: Path
) -> None:
    whole = Image.open(photos / "0.png")
    whole.save(tmp_path / "stack.tif", save_all=True, append_images=[Image.new("F", (8, 8)), whole])
    with pytest.raises(UnreadableImagesError, match=r"1 of 3(.|\n)*stack\.tif, page 2, cannot be read: .*floating"):
        predict_files(model, [tmp_path / "stack.tif"], tmp_path / "out")
    content = json.loads((tmp_path / "out" / INSTANCES).read_text())
    assert [image["page"] for image in content["images"]] == [1, 3]


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_16_bits_are_scaled_to_8(model: ExportedModel, photos: Path, tmp_path: Path, kind: str) -> None:
    grey = np.asarray(Image.open(photos / "0.png").convert("L"))
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / f"16.{kind}")
    files = [tmp_path / "8.png", tmp_path / f"16.{kind}"]
    content = predict_files(model, files, None, min_score=0.0)
    assert_same(found_in(content, f"16.{kind}"), found_in(content, "8.png"))


def test_patterns_stand_for_the_files_that_fit(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "[1].png").write_bytes((photos / "1.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    found = find_images([Path("**/[0-1].png"), Path("photos/1.png"), Path("photos/[1].png")])
    assert [str(file) for file in found] == ["photos/0.png", "photos/1.png", "photos/[1].png"]
    with pytest.raises(InputError, match=r"no image photos/\*\.gif, nor does any file fit it"):
        find_images([Path("photos/*.gif")])


def test_results_are_cocos_with_every_probability(model: ExportedModel, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(2):  # ours are replaced
        content = predict_files(model, [photos / "0.png", photos / "1.png"], output, min_score=0.0)
    results = json.loads((output / RESULTS).read_text())
    truth = COCO(str(output / INSTANCES))
    assert len(truth.loadRes(str(output / RESULTS)).anns) == len(results) == len(content["annotations"]) > 0
    for annotation, result in zip(content["annotations"], results, strict=True):
        assert "color_probabilities" not in annotation
        assert (annotation["image_id"], annotation["score"]) == (result["image_id"], result["score"])
        assert result["color"] == int(np.argmax(result["color_probabilities"]))
        assert result["color_score"] == max(result["color_probabilities"])
    (output / RESULTS).write_text(json.dumps(results[:1]))
    with pytest.raises(InputError, match=rf"{RESULTS} would be written over, but it is not from raytune_m2f"):
        predict_files(model, [photos], output)
    (output / RESULTS).unlink()
    assert predict_files(model, [photos], output, min_score=1.0)["annotations"] == []
    assert json.loads((output / RESULTS).read_text()) == []
    predict_files(model, [photos], output)


def test_sieves_and_sizes_can_be_set_for_a_prediction_and_nothing_else(model: ExportedModel, photos: Path) -> None:
    section = "MODEL.MASK_FORMER.TEST"
    before = predict_files(model, [photos], None, min_score=0.0)
    for values in ([f"{section}.CLASS_THRESHOLD=1"], {f"{section}.SUBCATEGORY_THRESHOLD": 1.0}):
        assert predict_files(with_overrides(model, values), [photos], None, min_score=0.0)["annotations"] == []
    one = with_overrides(model, [f"{section}.NMS_THRESHOLD=0", "TEST.DETECTIONS_PER_IMAGE=3"])
    assert 0 < len(predict_files(one, [photos], None, min_score=0.0)["annotations"]) < len(before["annotations"])
    assert with_overrides(model, ["INPUT.MIN_SIZE_TEST=32"]).resized(read_image(photos / "0.png")).shape[1] == 32
    assert with_overrides(model) is model
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR: predictions do not depend on it; allowed: MODEL\.MASK"):
        with_overrides(model, ["SOLVER.BASE_LR=1"])
    with pytest.raises(ConfigError, match=r"NMS_TRESHOLD(.|\n)*did you mean .*NMS_THRESHOLD"):
        with_overrides(model, [f"{section}.NMS_TRESHOLD=0.5"])
    with pytest.raises(InputError, match="--batch: got 0"):
        with_overrides(model, batch=0)


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_json_lines_go_to_stdout_and_an_unreadable_file_is_one_of_them(folder: Path, photos: Path) -> None:
    (photos / "broken.png").write_text("no image")
    done = run("-q", "predict", "--model", folder, "--json", "--min-score", 0, "--batch", 2, "--device", "cpu", photos)
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {Path(line["file_name"]).name for line in lines} == {f"{n}.png" for n in range(6)} | {"broken.png"}
    (broken,) = (line for line in lines if "error" in line)
    assert "no image of a known kind" in broken["error"]
    assert "1 of 7 images were left out; the other 6 are done" in done.stderr
    best = next(line for line in lines if "error" not in line)["instances"][0]
    assert best["category"] in ("circle", "square", "triangle", "cross")
    assert best["color_name"] in ("red", "green", "blue", "yellow")
    assert len(best["texture_probabilities"]) == 3
    assert not list(photos.parent.glob("*.json"))


def test_the_earlier_name_of_the_score_is_understood(folder: Path, photos: Path, tmp_path: Path) -> None:
    for option in ("--score-threshold", "--min-score"):
        done = run("predict", "--model", folder, "--output", tmp_path / "out", option, 1, photos)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith("0 instances in 6 images")
    loaded = load_model(folder, device="cpu")
    pixels = read_image(photos / "0.png")
    assert len(loaded.predict(pixels, score_threshold=0.0)) == len(loaded.predict(pixels, min_score=0.0)) > 0
    assert loaded.predict_files([photos], score_threshold=1.0)["annotations"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--device", "gpu", "--json"), "--device: got 'gpu', allowed: cpu, or a GPU of this machine"),
        (("--device", "meta", "--json"), "--device: got 'meta'"),
        ((), "nothing would be kept: give --output DIR"),
        (("--json", "--set", "NMS_THRESHOLD"), "KEY=VALUE"),
    ],
)
def test_what_cannot_be_done_is_refused(
    folder: Path, photos: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 400)
    done = run("predict", "--model", folder, *words, photos)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""
