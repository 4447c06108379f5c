"""export --format onnx and torch: the same instances as the model's, by a program without raytune_m2f."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from raytune_m2f import formats
from raytune_m2f.config import Config
from raytune_m2f.data import Categories, read_image
from raytune_m2f.data.masks import decode
from raytune_m2f.errors import MissingDependencyError, ModelError
from raytune_m2f.export import ExportedModel
from raytune_m2f.formats.graph import Graph, graph_of, require_same, size_of
from raytune_m2f.learner.mask_former import build_network

CATEGORIES = Categories(
    (1, 2, 5),
    ("disc", "ring", "cross"),
    {"color": ("red", "green", "blue", "yellow"), "texture": ("plain", "striped", "dotted")},
)
SECTION = "MODEL.MASK_FORMER.TEST"
LOCATED = {"MODEL.MASK_FORMER.QUERY_SELECTION": "heatmap", "MODEL.MASK_FORMER.MASK_PRIOR": True}
SIEVES = {
    f"{SECTION}.RANKING": "logits",
    f"{SECTION}.CLASS_THRESHOLD": 0.15,
    f"{SECTION}.SUBCATEGORY_THRESHOLD": 0.1,
    f"{SECTION}.NMS_THRESHOLD": 0.9,
    f"{SECTION}.NMS_CLASS_AGNOSTIC": False,
    "TEST.DETECTIONS_PER_IMAGE": 12,
}


def model_of(config: Config) -> ExportedModel:
    """With random weights, whose masks are neither empty nor full."""
    torch.manual_seed(0)
    network = build_network(config, CATEGORIES).eval()
    return ExportedModel(network, config, CATEGORIES, torch.device("cpu"))


def example_of(folder: Path) -> ModuleType:
    """example.py as it was written."""
    spec = importlib.util.spec_from_file_location("example", folder / "example.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", params=["onnx", pytest.param("torch", marks=pytest.mark.slow)])
def written(request: pytest.FixtureRequest, tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model and its directory: located queries with every sieve as ONNX, learnable ones as torch's program."""
    small = {"MODEL.RESNETS.NORM": "BN", "MODEL.MASK_FORMER.DEC_LAYERS": 2}  # an exporter takes seconds a layer
    model = model_of(tiny_config.with_values({**small, **LOCATED, **SIEVES} if request.param == "onnx" else small))
    folder = tmp_path_factory.mktemp(request.param)
    formats.write(request.param, model, folder)
    return model, folder


def test_the_example_finds_the_instances_of_the_model(
    written: tuple[ExportedModel, Path], tiny_dataset: dict[str, Path]
) -> None:
    model, folder = written
    example = example_of(folder)
    run, description = example.load(folder)
    seen = 0
    for number in range(1, 4):
        pixels = read_image(tiny_dataset["val_images"] / f"{number:05d}.png")
        expected = model.predict_encoded(pixels)
        found = example.find_instances(run, description, pixels)
        assert len(found) == len(expected)
        masks = decode(expected.masks, *pixels.shape[:2]).astype(bool)
        for i, instance in enumerate(found):
            assert instance["category"] == CATEGORIES.names[int(expected.labels[i])]
            assert instance["score"] == pytest.approx(float(expected.scores[i]), abs=1e-3)
            assert np.mean(instance["mask"] != masks[i]) < 0.002
            for head, label in instance["subcategories"].items():
                assert label["probabilities"] == pytest.approx(expected.subprobs[head][i].tolist(), abs=1e-3)
        seen += len(found)
    assert seen > 3


def test_the_directory_says_what_goes_in_and_out(written: tuple[ExportedModel, Path]) -> None:
    model, folder = written
    content = json.loads((folder / "model.json").read_text())
    assert content["input"]["shape"] == ["batch", 3, 64, 64]
    assert content["outputs"]["color_logits"] == ["batch", 8, 5]
    assert content["postprocessing"]["max_instances"] == model.config.TEST.DETECTIONS_PER_IMAGE
    assert Categories.from_dict(content) == CATEGORIES
    text = (folder / "README.md").read_text()
    assert "| out `texture_logits` | float32, batch x 8 x 4 |" in text
    assert ("of one category that overlap by more than 0.9" in text) == (content["file"] == "model.onnx")
    files = {file.name for file in folder.iterdir() if file.is_file()}  # importing the example leaves a folder
    assert files == {content["file"], "model.json", "README.md", "example.py"}


@pytest.mark.parametrize(("width", "height"), [(50, 40), (200, 90), (64, 64)])
def test_the_example_resizes_as_the_model_does(tiny_config: Config, width: int, height: int) -> None:
    example = example_of(Path(formats.__file__).parent)
    pixels = np.array(Image.effect_noise((width, height), 80).convert("RGB"))
    sizes = {"min_size": 48, "max_size": 64, "height": 64, "width": 64, "pad_value": [127.0, 120.0, 110.0]}
    config = tiny_config.with_values({"INPUT.MIN_SIZE_TEST": 48})
    expected = model_of(config).resized(pixels).numpy()
    canvas, size = example.prepare(pixels, **sizes)
    assert size == expected.shape[1:]
    assert np.abs(canvas[:, : size[0], : size[1]] - expected).max() <= 1
    assert (canvas[0, size[0] :] == 127).all()
    assert (canvas[2, :, size[1] :] == 110).all()


def test_what_differs_is_refused_but_for_the_order_of_queries(tiny_config: Config) -> None:
    graph, size = graph_of(model_of(tiny_config.with_values(LOCATED))), (64, 96)

    def outputs(images: torch.Tensor, wrong: float = 0.0, order: list[int] | None = None) -> list[torch.Tensor]:
        with torch.no_grad():
            found = list(graph(images).values())
        found[1] = found[1] + wrong
        return [each[:, order] for each in found] if order else found

    require_same(graph, size, outputs, "it")
    require_same(graph, size, lambda images: outputs(images, order=[1, 0, *range(2, 8)]), "it")
    for wrong in (0.5, float("nan")):
        with pytest.raises(ModelError, match="it differs from the model by"):
            require_same(graph, size, lambda images, by=wrong: outputs(images, wrong=by), "it")  # type: ignore[misc]


def test_a_missing_package_is_named_with_what_to_install(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime, which is not installed: pip install .*\[onnx\]"):
        formats.write("onnx", model_of(tiny_config), tmp_path)


def test_an_image_of_another_shape_is_made_to_fit(tiny_config: Config) -> None:
    example = example_of(Path(formats.__file__).parent)
    sizes = {"min_size": 48, "max_size": 64, "height": 32, "width": 64, "pad_value": [127.0, 120.0, 110.0]}
    for height, width, fit in ((80, 160, (32, 64)), (160, 80, (32, 16)), (300, 1, (32, 1)), (40, 40, (32, 32))):
        canvas, size = example.prepare(np.full((height, width, 3), 9, np.uint8), **sizes)
        assert canvas.shape == (3, 32, 64)
        assert size == fit
        assert (canvas[:, : fit[0], : fit[1]] == 9).all()
        assert (canvas[0, :, fit[1] :] == 127).all()


def test_the_size_is_that_of_the_largest_resized_test_image_or_a_square(tiny_config: Config) -> None:
    assert size_of(tiny_config, 32) == ((64, 64), True)
    apart = tiny_config.with_values({"INPUT.MIN_SIZE_TEST": 40, "INPUT.MAX_SIZE_TEST": 500})
    assert size_of(apart, 32) == ((64, 64), True), "the images are squares, and padded to a multiple of 32"
    tiled = tiny_config.with_values({"TEST.TILES.ENABLED": True, "INPUT.MIN_SIZE_TEST": 0, "INPUT.IMAGE_SIZE": 100})
    assert size_of(tiled, 32) == ((128, 128), False), "a window, not an image"
    gone: dict[str, Any] = {"DATASETS.TEST": []}
    for values, side in (
        ({"INPUT.MIN_SIZE_TEST": 800, "INPUT.MAX_SIZE_TEST": 1333}, 1344),
        ({"INPUT.MIN_SIZE_TEST": 0, "INPUT.IMAGE_SIZE": 100}, 128),
    ):
        assert size_of(tiny_config.with_values({**gone, **values}), 32) == ((side, side), False)
    with pytest.raises(ModelError, match=r"INPUT\.MAX_SIZE_TEST"):
        size_of(tiny_config.with_values({**gone, "INPUT.MAX_SIZE_TEST": 5000}), 32)


def test_the_size_of_test_images_of_several_shapes_holds_each(
    tiny_config: Config, tiny_dataset: dict[str, Path], tmp_path: Path
) -> None:
    content = json.loads(tiny_dataset["val_annotations"].read_text())
    for image, (height, width) in zip(content["images"], ((40, 120), (90, 30), (64, 64)), strict=False):
        image |= {"height": height, "width": width}
    content["images"] = content["images"][:3]
    content["annotations"] = []
    (tmp_path / "val.json").write_text(json.dumps(content))
    (name,) = tiny_config.DATASETS.TEST
    values = {f"DATASETS.REGISTER.{name}.annotations": str(tmp_path / "val.json")}
    size = {"INPUT.MIN_SIZE_TEST": 48, "INPUT.MAX_SIZE_TEST": 110}
    assert size_of(tiny_config.with_values({**values, **size}), 32) == ((128, 128), True)
    content["images"].pop(1)
    (tmp_path / "val.json").write_text(json.dumps(content))
    assert size_of(tiny_config.with_values({**values, **size}), 32) == ((64, 128), True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    [
        {"MODEL.RESNETS.DEPTH": 50, "MODEL.RESNETS.NORM": "BN"},
        {"MODEL.BACKBONE.NAME": "D2SwinTransformer"},
        {"MODEL.BACKBONE.NAME": "build_mobilenet_v3_backbone", "MODEL.MOBILENETV3.NORM": "BN"},
        {"MODEL.BACKBONE.NAME": "build_efficientnet_lite_backbone", "MODEL.EFFICIENTNET_LITE.NORM": "BN"},
    ],
    ids=lambda values: str(next(iter(values.values()))),
)
def test_every_backbone_is_written(tiny_config: Config, tmp_path: Path, backbone: dict[str, Any]) -> None:
    formats.write("onnx", model_of(tiny_config.with_values(backbone)), tmp_path)
    assert isinstance(graph_of(model_of(tiny_config)), Graph)
