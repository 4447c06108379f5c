"""Initial weights: whose names they have, and what is said of those that do not fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import mobilenet_v3_small, resnet18
from weight_cases import BATCH_NORM, MOBILENET, SWIN, network_of, plus_one, torchvisions_swin

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.errors import ModelError
from raytune_m2f.learner.mask_former import build_network
from raytune_m2f.learner.weights import load_weights


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
