"""Backbones: four levels, torchvision's own features, and the names of the published weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenetv3, resnet, swin_transformer

from raytune_m2f.model import Backbone, MobileNetV3, ResNet, SwinTransformer, build_model
from raytune_m2f.model.backbones.resnet import detectron2_name

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}


def swin(**sizes: Any) -> SwinTransformer:
    """A Swin-T, or another one."""
    values = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7}
    return SwinTransformer(**{**values, "drop_path_rate": 0.0, **sizes})


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "R18": lambda: ResNet(18, "FrozenBN"),
    "R50": lambda: ResNet(50, "FrozenBN"),
    "R18 GN": lambda: ResNet(18, "GN"),
    "small": lambda: MobileNetV3("small", "FrozenBN"),
    "large": lambda: MobileNetV3("large", "BN"),
    "Swin-T": swin,
    "Swin, window 12": lambda: swin(embed_dim=32, num_heads=(1, 2, 4, 8), window_size=12),
}
CHANNELS = {
    "R18": (64, 128, 256, 512),
    "R50": (256, 512, 1024, 2048),
    "small": (16, 24, 48, 576),
    "large": (24, 40, 112, 960),
    "Swin-T": (96, 192, 384, 768),
}


def randomize(network: nn.Module) -> None:
    """Fresh norms would hide differences: they are constants."""
    for name, value in (*network.named_parameters(), *network.named_buffers()):
        if name.endswith("running_var"):
            value.data.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim == 1:
            value.data.add_(0.1 * torch.randn_like(value))


@torch.no_grad()
@pytest.mark.parametrize("name", BACKBONES)
def test_levels_and_a_round_trip_of_the_weights(name: str) -> None:
    backbone = BACKBONES[name]().eval()
    randomize(backbone)
    image = torch.randn(2, 3, 64, 96)
    features = backbone(image)
    assert backbone.channels == {level: features[level].shape[1] for level in STRIDES}
    assert tuple(backbone.channels.values()) == CHANNELS.get(name, tuple(backbone.channels.values()))
    for level, stride in STRIDES.items():
        assert features[level].shape == (2, backbone.channels[level], 64 // stride, 96 // stride)
        assert features[level].is_contiguous()
    state = backbone.state_dict()
    other = BACKBONES[name]().eval()
    other.load_state_dict(state, strict=True)
    for level, again in other(image).items():
        assert torch.equal(again, features[level])
    inside = nn.ModuleDict({"backbone": other})  # the hooks respect a prefix
    assert list(inside.state_dict()) == [f"backbone.{name}" for name in state]
    inside.load_state_dict({f"backbone.{name}": value for name, value in state.items()}, strict=True)


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_resnets_are_torchvisions(depth: int) -> None:
    net: Any = getattr(resnet, f"resnet{depth}")().double().eval()  # double: a norm frozen or not rounds differently
    randomize(net)
    backbone = ResNet(depth, "FrozenBN").double().eval()
    load(backbone, net, unused=("fc.",))
    image = torch.randn(1, 3, 64, 64, dtype=torch.double)
    x = net.maxpool(net.relu(net.bn1(net.conv1(image))))
    features = backbone(image)
    for level, stage in zip(STRIDES, (net.layer1, net.layer2, net.layer3, net.layer4), strict=True):
        x = stage(x)
        torch.testing.assert_close(features[level], x, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("arch", ["small", "large"])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_mobilenets_are_torchvisions(arch: str, norm: str) -> None:
    net: Any = getattr(mobilenetv3, f"mobilenet_v3_{arch}")().double().eval()
    randomize(net)
    backbone = MobileNetV3(arch, norm).double().eval()
    load(backbone, net, unused=("classifier.",))
    last: dict[int, Tensor] = {}  # the last map of each stride
    image = x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    for layer in net.features:
        x = layer(x)
        last[64 // x.shape[2]] = x
    features = backbone(image)
    for level, stride in STRIDES.items():
        torch.testing.assert_close(features[level], last[stride], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("norm", "kind"), [("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm)])
def test_the_norms_of_a_mobilenet_are_those_of_its_training(norm: str, kind: type[nn.Module]) -> None:
    norms: list[Any] = [module for module in MobileNetV3("small", norm).modules() if isinstance(module, kind)]
    assert len(norms) > 30
    assert {(module.eps, module.momentum) for module in norms} == {(1e-3, 0.01)}


@torch.no_grad()
def test_swin_is_torchvisions_where_no_map_fits_into_a_window() -> None:
    sizes = {"embed_dim": 32, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8]}
    net: Any = swin_transformer.SwinTransformer(patch_size=[4, 4], window_size=[2, 2], **sizes).eval()
    randomize(net)
    backbone = swin(**sizes, window_size=2).eval()
    load(backbone, net, unused=("norm.", "head."), fresh=("norm0.", "norm1.", "norm2.", "norm3."))
    image = torch.randn(1, 3, 96, 160)
    features, x = backbone(image), image
    for i, level in enumerate(STRIDES):
        x = net.features[2 * i + 1](net.features[2 * i](x))
        wanted = getattr(backbone, f"norm{i}")(x).permute(0, 3, 1, 2)
        torch.testing.assert_close(features[level], wanted, atol=1e-5, rtol=1e-5)


def load(backbone: Backbone, net: nn.Module, *, unused: tuple[str, ...], fresh: tuple[str, ...] = ()) -> None:
    """Load torchvision's state dict under the stored names; only these may have no use or stay fresh."""
    constant = ("num_batches_tracked", "relative_position_index")
    state = {backbone.stored_name(k): v for k, v in net.state_dict().items() if not k.endswith(constant)}
    missing, unexpected = backbone.load_state_dict(state, strict=False)
    assert all(name.startswith(unused) for name in unexpected), unexpected
    assert all(name.startswith(fresh) or name.endswith(constant) for name in missing), missing


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("conv1.weight", "stem.conv1.weight"),
        ("bn1.running_var", "stem.conv1.norm.running_var"),
        ("layer1.0.conv2.weight", "res2.0.conv2.weight"),
        ("layer4.1.bn3.bias", "res5.1.conv3.norm.bias"),
        ("layer2.0.downsample.0.weight", "res3.0.shortcut.weight"),
        ("layer2.0.downsample.1.weight", "res3.0.shortcut.norm.weight"),
    ],
)
def test_resnets_have_detectron2s_names(ours: str, theirs: str) -> None:
    assert detectron2_name(ours) == theirs
    assert detectron2_name(theirs) == theirs


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("features.0.0.weight", "patch_embed.proj.weight"),
        ("features.0.2.bias", "patch_embed.norm.bias"),
        ("features.1.1.attn.qkv.weight", "layers.0.blocks.1.attn.qkv.weight"),
        ("features.5.17.attn.relative_position_bias_table", "layers.2.blocks.17.attn.relative_position_bias_table"),
        ("features.7.0.mlp.0.weight", "layers.3.blocks.0.mlp.fc1.weight"),
        ("features.7.0.mlp.3.bias", "layers.3.blocks.0.mlp.fc2.bias"),
        ("features.2.reduction.weight", "layers.0.downsample.reduction.weight"),
        ("features.6.norm.bias", "layers.2.downsample.norm.bias"),
        ("norm3.weight", "norm3.weight"),
    ],
)
def test_swins_have_mask2formers_names(ours: str, theirs: str) -> None:
    backbone = swin(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    assert backbone.stored_name(ours) == theirs
    assert backbone.stored_name(theirs) == theirs


def test_the_index_of_swins_position_bias_is_square() -> None:
    state = swin(embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)).state_dict()
    assert state["layers.0.blocks.0.attn.relative_position_index"].shape == (49, 49)


@pytest.mark.parametrize("size", [(32, 32), (64, 96)])
def test_a_swin_trains_at_any_size(size: tuple[int, int]) -> None:
    """Also where one window covers a side, which torchvision alone would not shift."""
    backbone = swin(embed_dim=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), drop_path_rate=0.3)
    features = backbone(torch.randn(2, 3, *size))
    sum(x.square().sum() for x in features.values()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@torch.no_grad()
@pytest.mark.parametrize("name", ["small", "Swin, window 12"])
def test_the_network_takes_any_backbone(name: str) -> None:
    network = build_model(
        backbone=BACKBONES[name](),
        num_classes=3,
        subcategories={"color": 4},
        conv_dim=32,
        mask_dim=32,
        encoder_layers=1,
        hidden_dim=32,
        num_heads=4,
        dim_feedforward=64,
        decoder_layers=1,
        num_queries=5,
    ).eval()
    assert network([torch.zeros(3, 64, 64)]).pred_logits.shape == (2, 1, 5, 4)
