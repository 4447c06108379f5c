"""Hugging Face transformers' Mask2Former and ours: weights in, a directory out, equal numbers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.errors import MissingDependencyError, ModelError
from raytune_m2f.export import ExportedModel
from raytune_m2f.formats import transformers as formats
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.learner.weights import load_weights
from raytune_m2f.model import Instances, MultiTaskMaskFormer

transformers = pytest.importorskip("transformers")

CATEGORIES = Categories(ids=(1, 2, 3), names=("a", "b", "c"), subcategories={"color": ("x", "y"), "age": ("o", "n")})
CPU = torch.device("cpu")
BACKBONES: dict[str, dict[str, Any]] = {
    "swin": {
        "MODEL.BACKBONE.NAME": "D2SwinTransformer",
        "MODEL.SWIN.EMBED_DIM": 8,
        "MODEL.SWIN.DEPTHS": [2, 2, 2, 2],
        "MODEL.SWIN.NUM_HEADS": [1, 2, 2, 4],
        "MODEL.SWIN.WINDOW_SIZE": 4,
    },
    "resnet": {"MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.NORM": "BN"},
}
OTHERS = {
    "MODEL.MASK_FORMER.DEC_LAYERS": 5,  # so many that each level has a layer, and the first has two
    "MODEL.MASK_FORMER.HIDDEN_DIM": 64,  # unlike CONVS_DIM: with projections
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 160,
}
"""With `tiny_config`: a network of which every tensor of another place or order would be seen."""


def exported_of(config: Config, backbone: str, values: dict[str, Any] | None = None) -> ExportedModel:
    """A network all of whose tensors differ from fresh ones, batch norm's statistics too."""
    config = config.with_values({**BACKBONES[backbone], **OTHERS, **(values or {})})
    torch.manual_seed(0)
    network = build_network(config, CATEGORIES)
    with torch.no_grad():
        for value in network.state_dict(keep_vars=True).values():
            if value.ndim > 1 and value.is_floating_point():
                value.add_(torch.randn_like(value) * (0.3 * value.std() + 0.02))  # some begin with zeros
            elif value.ndim == 1 and value.is_floating_point():
                value.add_(torch.rand_like(value) * 0.2)
        network.sem_seg_head.predictor.class_embed.bias.copy_(torch.tensor([1.0, 2.0, 3.0, 0.0]))
    return ExportedModel(network.eval(), config, CATEGORIES, CPU)


@pytest.fixture(scope="module", params=BACKBONES)
def written(
    tiny_config: Config, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[ExportedModel, Path]:
    exported = exported_of(tiny_config, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    formats.write(exported, folder)
    return exported, folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Of 192 x 128 pixels: resized to 144 x 96 by us, to 160 x 96 by transformers."""
    levels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(levels).resize((192, 128)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_what_is_written_is_what_was_read(written: tuple[ExportedModel, Path]) -> None:
    exported, folder = written
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "categories.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == {*names, "subcategories.safetensors"}
    assert isinstance(exported.model, MultiTaskMaskFormer)
    network = build_network(exported.config, CATEGORIES)
    loaded = load_weights(network, str(folder))
    heads = [f"sem_seg_head.predictor.{head}_embed.{part}" for head in ("color", "age") for part in ("weight", "bias")]
    assert sorted(loaded.fresh) == sorted(heads)
    assert loaded.unused == ()
    own = exported.model.state_dict()
    for name, value in network.state_dict().items():
        assert name in heads or torch.equal(value, own[name]), name


@torch.no_grad()
def test_a_model_of_transformers_loads_with_nothing_but_the_heads_new(
    written: tuple[ExportedModel, Path], tmp_path: Path
) -> None:
    """As its own code makes and saves it: random, in the names of this version."""
    exported, folder = written
    config = transformers.AutoConfig.from_pretrained(folder)
    config.num_labels = 5
    torch.manual_seed(1)
    theirs = transformers.Mask2FormerForUniversalSegmentation(config).eval()
    theirs.save_pretrained(tmp_path)
    transformers.Mask2FormerImageProcessor().save_pretrained(tmp_path)
    network = build_network(exported.config, CATEGORIES).eval()
    loaded = load_weights(network, str(tmp_path))
    classifiers = {f"sem_seg_head.predictor.{head}_embed" for head in ("class", "color", "age")}
    assert {name.rpartition(".")[0] for name in loaded.fresh} == classifiers
    assert {name.rpartition(".")[0] for name in loaded.unused} == {"sem_seg_head.predictor.class_embed"}  # 5 classes
    pixels = network.preprocess([torch.randint(0, 256, (3, 96, 160), generator=torch.Generator().manual_seed(0))])
    outputs = network.sem_seg_head(network.backbone(pixels))
    torch.testing.assert_close(outputs.pred_masks, theirs(pixels).masks_queries_logits, rtol=1e-4, atol=1e-4)


def test_what_is_read_of_an_image_is_what_we_read(written: tuple[ExportedModel, Path], picture: Path) -> None:
    exported, folder = written
    assert isinstance(exported.model, MultiTaskMaskFormer)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    with Image.open(picture) as opened:
        assert processor(opened, return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 160)
        image = np.array(opened.resize((320, 192)))  # of which 160 x 96 is made, multiples of 32
    ours = exported.model.preprocess([exported.resized(image)])
    torch.testing.assert_close(processor(image, return_tensors="pt")["pixel_values"], ours, rtol=1e-4, atol=1e-4)
    with Image.open(picture) as opened:
        gray = opened.convert("L")
    assert processor(gray, return_tensors="pt")["pixel_values"].shape == (1, 3, 96, 160)


def test_the_readmes_example_names_the_subcategories(
    written: tuple[ExportedModel, Path], picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, folder = written
    assert isinstance(exported.model, MultiTaskMaskFormer)
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    code = "".join(blocks).replace('"."', repr(str(folder))).replace('"image.png"', repr(str(picture)))
    names: dict[str, Any] = {}
    exec(code.replace(">= 0.5", ">= 0.4").replace("target_sizes", "threshold=0.2, target_sizes"), names)
    lines = capsys.readouterr().out.splitlines()
    with torch.no_grad():
        outputs = exported.model.sem_seg_head(exported.model.backbone(names["processor"](
            names["image"], return_tensors="pt")["pixel_values"]))  # fmt: skip
    found = [result["segments_info"][0]["label_id"] if result["segments_info"] else None for result in names["results"]]
    assert any(label is not None for label in found)
    wanted = [
        f"{CATEGORIES.names[label]} {head} {classes[int(outputs.pred_sublogits[head][-1, 0, query, :-1].argmax())]}"
        for query, label in zip(names["kept"].tolist(), found, strict=True)
        if label is not None
        for head, classes in CATEGORIES.subcategories.items()
    ]
    assert lines[-len(wanted) :] == wanted


def test_the_example_is_documented() -> None:
    assert formats.USE_HEADS in (Path(__file__).parents[2] / "docs/transformers.md").read_text(encoding="utf-8")


def test_the_readme_says_what_is_not_applied(tiny_config: Config) -> None:
    values = {"TEST.TILES.ENABLED": True, "MODEL.MASK_FORMER.TEST.RANKING": "sum"}
    text = formats._readme(exported_of(tiny_config, "resnet", values))
    assert "not cut into windows (TEST.TILES.SIZE" in text
    assert "MODEL.MASK_FORMER.TEST.RANKING (sum) is not applied" in text
    assert "NMS_THRESHOLD" not in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"MODEL.RESNETS.NORM": "GN"}, "MODEL.RESNETS.NORM is GN, there batch norm"),
        (
            {"MODEL.MASK_FORMER.QUERY_SELECTION": "heatmap", "MODEL.MASK_FORMER.MASK_PRIOR": True},
            "QUERY_SELECTION is heatmap, there queries are learnable .*; MODEL.MASK_FORMER.MASK_PRIOR is true",
        ),
        ({"MODEL.SEM_SEG_HEAD.NORM": ""}, "MODEL.SEM_SEG_HEAD.NORM is '', there GN"),
        ({"MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 2}, "N_POINTS is 2, there 4"),
        (
            {"MODEL.BACKBONE.NAME": "build_mobilenet_v3_backbone", "MODEL.MOBILENETV3.NORM": "BN"},
            "NAME is build_mobilenet_v3_backbone, there a Swin or a ResNet",
        ),
    ],
)
def test_what_transformers_cannot_express_is_refused_at_once(
    tiny_config: Config, tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    exported = exported_of(tiny_config, "resnet", values)
    with pytest.raises(ModelError, match=f"cannot express this model: .*{said}.*--format onnx"):
        formats.write(exported, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_another_network_of_detectron2s_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    exported = ExportedModel(torch.nn.Linear(1, 1), tiny_config, CATEGORIES, CPU)
    with pytest.raises(ModelError, match="another of detectron2's networks"):
        formats.write(exported, tmp_path)


def test_without_transformers_it_is_said(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'raytune-m2f\[transformers\]'"):
        formats.write(exported_of(tiny_config, "resnet"), tmp_path)


def test_what_differs_is_refused(written: tuple[ExportedModel, Path], tmp_path: Path) -> None:
    """The check can fail: a tensor changed in what was written, or left out."""
    exported, folder = written
    assert isinstance(exported.model, MultiTaskMaskFormer)
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for file, name, said in (
        ("subcategories.safetensors", "age.weight", "logits of age are not the model's: they differ by"),
        ("model.safetensors", "model.pixel_level_module.decoder.level_embed", "queries_logits are not the model's"),
        ("model.safetensors", "class_predictor.bias", "class_queries_logits are not the model's: they differ by"),
        ("preprocessor_config.json", "0.485", "pixel_values are not the model's: they differ by"),
    ):
        whole = (tmp_path / file).read_bytes()
        if file.endswith("json"):
            (tmp_path / file).write_text(whole.decode().replace(name, "0.406"))
        else:
            state = load_file(tmp_path / file)
            save_file({**state, name: state[name].flip(0)}, tmp_path / file, metadata={"format": "pt"})
        with pytest.raises(ModelError, match=said):
            formats._check(exported.model, tmp_path)
        (tmp_path / file).write_bytes(whole)
    del state["class_predictor.bias"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"does not load what was written.*class_predictor\.bias"):
        formats._check(exported.model, tmp_path)


def test_instances_of_another_score_category_or_mask_are_refused() -> None:
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, :4], masks[1, 4:] = True, True
    ours = Instances(torch.tensor([0.9, 0.1]), torch.tensor([1, 0]), masks, torch.tensor([0, 1]), {})

    def theirs(label: int, score: float, mask: Tensor) -> dict[str, Any]:
        return {"segments_info": [{"label_id": label, "score": score}], "segmentation": mask[None].float()}

    formats._require_same_instances(theirs(1, 0.9, masks[0]), ours)  # the last of a ranking may be another
    for other in (theirs(0, 0.9, masks[0]), theirs(1, 0.8, masks[0]), theirs(1, 0.9, masks[1])):
        with pytest.raises(ModelError, match=r"does not find the model's instance of category 1 with score 0\.900"):
            formats._require_same_instances(other, ours)
