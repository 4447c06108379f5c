"""Initial weights: whose names they have, and what is said of those that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.transforms.v2.functional import center_crop, resize
from weight_cases import BATCH_NORM, LITE, MOBILENET, SWIN, network_of, plus_one, torchvisions_swin

from raytune_m2f.config import Config, load_config
from raytune_m2f.data import Categories
from raytune_m2f.data.images import read_image
from raytune_m2f.errors import ModelError
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.learner.weight_files import read_state_dict
from raytune_m2f.learner.weights import load_weights
from raytune_m2f.model import MultiTaskMaskFormer


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="raytune_m2f")


@pytest.mark.parametrize(
    ("values", "make", "stored", "theirs", "classifier"),
    [
        (BATCH_NORM, resnet18, "res2.0.conv1.norm.bias", "layer1.0.bn1.bias", "backbone.fc.weight"),
        (MOBILENET, mobilenet_v3_small, "features.0.0.weight", "features.0.0.weight", "backbone.classifier.0.weight"),
        (
            SWIN,
            torchvisions_swin,
            "layers.0.blocks.1.mlp.fc2.weight",
            "features.1.1.mlp.3.weight",
            "backbone.norm.weight",
        ),
    ],
)
def test_torchvisions_names_are_understood(
    tiny_config: Config,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    values: dict[str, Any],
    make: Any,
    stored: str,
    theirs: str,
    classifier: str,
) -> None:
    state = plus_one(make().state_dict())
    torch.save(state, tmp_path / "bare.pth")
    network = network_of(tiny_config, values)
    loaded = load_weights(network, str(tmp_path / "bare.pth"))
    assert torch.equal(network.backbone.state_dict()[stored], state[theirs])
    fresh = [n for n in loaded.fresh if n.startswith("backbone.") and not n.startswith("backbone.norm")]
    assert fresh == []  # norm0 to norm3 of a Swin are Mask2Former's
    assert classifier in loaded.unused
    assert "of its training only, not needed here: backbone." in caplog.text
    assert "pixel decoder and transformer decoder start fresh" in caplog.text
    assert "have no use here" not in caplog.text


PACKAGED = str(LITE["MODEL.WEIGHTS"])


def test_the_weights_of_a_package_fill_the_backbone(tiny_config: Config, caplog: pytest.LogCaptureFixture) -> None:
    network = network_of(tiny_config, LITE)
    loaded = load_weights(network, PACKAGED)
    state = read_state_dict(PACKAGED)
    for name, value in network.backbone.state_dict().items():
        assert torch.equal(value, state[name]) or name.endswith("num_batches_tracked"), name
    assert [name for name in loaded.fresh if name.startswith("backbone.")] == []
    assert (
        f"{PACKAGED} holds 7 tensors of its training only, not needed here: backbone._conv_head.weight" in caplog.text
    )
    assert "have no use here" not in caplog.text


@pytest.mark.parametrize("variant", [1, 2])
def test_the_weights_of_a_package_are_refused_by_another_variant(tiny_config: Config, variant: int) -> None:
    own = {"MODEL.EFFICIENTNET_LITE.VARIANT": variant, "MODEL.EFFICIENTNET_LITE.NORM": "BN"}
    values = {**LITE, **own, "MODEL.WEIGHTS": ""}
    with pytest.raises(ModelError, match="is not for this backbone"):
        load_weights(network_of(tiny_config, values), PACKAGED)


LEVELS = {
    "res2": (0.88648, 9.86505, -1.58691, 5.48509, -1.47707),
    "res3": (-0.16408, 9.86503, -2.40503, -2.39692, 4.92043),
    "res4": (0.20802, 6.62016, 1.20825, 11.37388, 3.97312),
    "res5": (0.03873, 2.63944, 3.07351, 1.23444, -3.14665),
}
"""Of these weights and `pattern`, by PyPI's efficientnet-lite-pytorch 0.1.0 in double: mean, deviation, three cells."""


def pattern() -> Tensor:
    """(3, 96, 128) RGB levels that need no file."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(128), indexing="ij")
    levels = (3 * x + y, 2 * y + 50 + x // 2, 5 * (x - y).abs())
    return torch.stack([level % 256 for level in levels]).to(torch.uint8)


@pytest.fixture(scope="module")
def pretrained() -> MultiTaskMaskFormer:
    """The network of configs/efficientnet_lite0.yaml with its weights."""
    config = load_config("efficientnet_lite0")
    network = build_network(config, Categories(ids=(1,), names=("a",), subcategories={}))
    load_weights(network, config.MODEL.WEIGHTS)
    return network.eval()


@torch.no_grad()
def test_the_maps_of_the_packages_weights_are_those_of_another_implementation(pretrained: MultiTaskMaskFormer) -> None:
    features = pretrained.backbone(pretrained.preprocess([pattern()]))
    for level, wanted in LEVELS.items():
        x = features[level]
        cells = (x[0, 0, 0, 0], x[0, 5, -1, -1], x[0, -1, 1, 2])
        found = torch.stack((x.mean(), x.std(), *cells))
        torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-3, rtol=1e-4)


NAMED = {
    "train/000000000370.jpg": (937, "broccoli"),
    "train/000000000471.jpg": (779, "school bus"),
    "train/000000458756.jpg": (954, "banana"),
    "train/000000519208.jpg": (385, "Indian elephant"),
    "val/000000000636.jpg": (861, "toilet seat"),
    "val/000000160012.jpg": (963, "pizza"),
}
"""Photographs of coco_cc and the class of ImageNet that is seen in each."""


@torch.no_grad()
def test_a_photograph_is_named_rightly(pretrained: MultiTaskMaskFormer, data_root: Path) -> None:
    state = read_state_dict(PACKAGED)
    mean, variance, scale, shift = (state[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
    for name, (wanted, _) in NAMED.items():
        image = torch.from_numpy(read_image(data_root / "coco_cc" / name)).permute(2, 0, 1)
        size = [round(side * 256 / min(image.shape[1:])) for side in image.shape[1:]]
        image = center_crop(resize(image, size), [224, 224])
        x = pretrained.backbone(pretrained.preprocess([image]))["res5"]
        x = F.conv2d(x, state["_conv_head.weight"])
        x = F.relu6(F.batch_norm(x, mean, variance, scale, shift, training=False, eps=1e-3))
        seen = F.linear(x.mean((2, 3)), state["_fc.weight"], state["_fc.bias"]).softmax(1)[0]
        assert int(seen.argmax()) == wanted, name
        assert float(seen[wanted]) > 0.8, name


def test_names_of_older_checkpoints_of_mask2former_are_understood(tiny_config: Config, tmp_path: Path) -> None:
    source = network_of(tiny_config)
    old = {
        name.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): value
        for name, value in plus_one(source.state_dict()).items()
    }
    assert "sem_seg_head.predictor.static_query.weight" in old
    torch.save({"model": old}, tmp_path / "old.pth")
    network = network_of(tiny_config)
    loaded = load_weights(network, str(tmp_path / "old.pth"))
    assert loaded == type(loaded)((), ())
    for name, value in source.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], value + 1)


def test_queries_are_cut_or_grown_and_heads_may_be_new(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = build_network(tiny_config, Categories(ids=(1, 2), names=("a", "b"), subcategories={"age": ("x",)}))
    path = tmp_path / "other.pth"
    torch.save({"model": {**source.state_dict(), "criterion.empty_weight": torch.ones(3)}}, path)
    theirs = source.sem_seg_head.predictor.query_feat.weight
    for queries in (5, 11):
        network = network_of(tiny_config, {"MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": queries})
        fresh = network.sem_seg_head.predictor.query_feat.weight.detach().clone()
        caplog.clear()
        loaded = load_weights(network, str(path))
        ours = network.sem_seg_head.predictor.query_feat.weight
        torch.testing.assert_close(ours[:5], theirs[:5])
        torch.testing.assert_close(ours[8:], fresh[8:])
        embeds = ("class_embed", "color_embed")
        assert sorted(loaded.fresh) == sorted(
            f"sem_seg_head.predictor.{e}.{p}" for e in embeds for p in ("weight", "bias")
        )
        assert sorted(loaded.unused) == sorted(
            f"sem_seg_head.predictor.{e}.{p}" for e in ("age_embed", "class_embed") for p in ("weight", "bias")
        )
        head = "sem_seg_head.predictor"
        assert [record.getMessage().removeprefix(f"{path}: ") for record in caplog.records] == [
            f"{head}.query_feat.weight: 8 queries in the file, {queries} in the network",
            f"{head}.query_embed.weight: 8 queries in the file, {queries} in the network",
            f"{head}.class_embed: 2 classes in the file, 3 classes here: it starts fresh",
            f"{head}.color_embed: no such head in the file, 2 classes here: it starts fresh",
            f"{head}.age_embed: 1 class in the file, no such head here",
        ]


def test_the_weights_of_another_backbone_are_refused(tiny_config: Config, tmp_path: Path) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "r18.pth")
    for values in (MOBILENET, SWIN, {**BATCH_NORM, "MODEL.RESNETS.DEPTH": 50}):
        with pytest.raises(ModelError, match=r"r18\.pth' is not for this backbone: \d+ of its \d+ tensors fit"):
            load_weights(network_of(tiny_config, values), str(tmp_path / "r18.pth"))


@pytest.mark.parametrize(("theirs", "ours"), [(18, 34), (34, 18)])
def test_the_weights_of_another_depth_are_refused(tiny_config: Config, tmp_path: Path, theirs: int, ours: int) -> None:
    """Each tensor of the shallower network fits the deeper one, which would be random in half of its blocks."""
    state = network_of(tiny_config, {**BATCH_NORM, "MODEL.RESNETS.DEPTH": theirs}).state_dict()
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="is not for this backbone"):
        load_weights(network_of(tiny_config, {**BATCH_NORM, "MODEL.RESNETS.DEPTH": ours}), str(tmp_path / "other.pth"))


def test_a_file_without_a_backbone_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    state = network_of(tiny_config).state_dict()
    torch.save({n: v for n, v in state.items() if n.startswith("sem_seg_head.predictor.mask")}, tmp_path / "head.pth")
    with pytest.raises(
        ModelError, match=r"0 of its 60 tensors fit, and 0 of .* The file holds e\.g\. sem_seg_head\.predictor\.mask"
    ):
        load_weights(network_of(tiny_config), str(tmp_path / "head.pth"))


def test_a_tensor_that_lacks_or_has_another_shape_is_named(
    tiny_config: Config, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = network_of(tiny_config).state_dict()
    del state["backbone.res3.0.conv1.weight"]
    state["sem_seg_head.predictor.mask_embed.layers.0.bias"] = torch.zeros(7)
    state["sem_seg_head.predictor.unknown"] = torch.zeros(7)
    torch.save(state, tmp_path / "part.pth")
    loaded = load_weights(network_of(tiny_config), str(tmp_path / "part.pth"))
    assert loaded.fresh == ("backbone.res3.0.conv1.weight", "sem_seg_head.predictor.mask_embed.layers.0.bias")
    assert "no values for 1 tensors, they start fresh: backbone.res3.0.conv1.weight" in caplog.text
    assert (
        "another shape, they start fresh: sem_seg_head.predictor.mask_embed.layers.0.bias [7], here [32]" in caplog.text
    )
    assert "1 tensors that have no use here: sem_seg_head.predictor.unknown" in caplog.text
