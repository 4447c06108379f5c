"""Backbones: four levels, torchvision's own features, and the names of the published weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenetv3, resnet, swin_transformer

from raytune_m2f.model import Backbone, EfficientNetLite, MobileNetV3, ResNet, SwinTransformer, build_model
from raytune_m2f.model.backbones.base import batch_norm, convolve_norm
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
    "Lite0": lambda: EfficientNetLite(0, "FrozenStatsBN"),
    "Lite1": lambda: EfficientNetLite(1, "BN"),
    "Lite2": lambda: EfficientNetLite(2, "FrozenBN"),
    "Swin-T": swin,
    "Swin, window 12": lambda: swin(embed_dim=32, num_heads=(1, 2, 4, 8), window_size=12),
}
CHANNELS = {
    "R18": (64, 128, 256, 512),
    "R50": (256, 512, 1024, 2048),
    "small": (16, 24, 48, 576),
    "large": (24, 40, 112, 960),
    "Lite0": (24, 40, 112, 320),
    "Lite1": (24, 40, 112, 320),
    "Lite2": (24, 48, 120, 352),
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


TAPS = {2: "res2", 4: "res3", 10: "res4", 15: "res5"}
"""Blocks of an EfficientNet-Lite0 that end a stride."""


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (64, 96), (224, 160)])
def test_a_lite_is_tensorflows_under_the_names_of_its_weights(size: tuple[int, int]) -> None:
    """Written out plainly from its state dict, with TensorFlow's "same" padding for any size."""
    backbone = EfficientNetLite(0, "FrozenStatsBN").double().eval()
    randomize(backbone)
    state = backbone.state_dict()

    def layer(x: Tensor, conv: str, norm: str, *, stride: int = 1, relu: bool = True) -> Tensor:
        weight = state[f"{conv}.weight"]
        kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
        pads = []
        for side in (x.shape[3], x.shape[2]):
            total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [total // 2, total - total // 2]
        x = F.conv2d(F.pad(x, pads), weight, stride=stride, groups=groups)
        mean, variance, scale, shift = (
            state[f"{norm}.{name}"] for name in ("running_mean", "running_var", "weight", "bias")
        )
        x = F.batch_norm(x, mean, variance, scale, shift, training=False, eps=1e-3)
        return F.relu6(x) if relu else x

    image = torch.randn(1, 3, *size, dtype=torch.double)
    x = layer(image, "_conv_stem", "_bn0", stride=2)
    features = backbone(image)
    for number in range(16):
        block, before = f"_blocks.{number}.", x
        if number:
            x = layer(x, f"{block}_expand_conv", f"{block}_bn0")
        x = layer(x, f"{block}_depthwise_conv", f"{block}_bn1", stride=2 if number in (1, 3, 5, 11) else 1)
        x = layer(x, f"{block}_project_conv", f"{block}_bn2", relu=False)
        x = x + before if x.shape == before.shape else x
        if number in TAPS:
            torch.testing.assert_close(features[TAPS[number]], x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("variant", "blocks", "millions"), [(0, 16, 4.65), (1, 21, 5.42), (2, 21, 6.09)])
def test_the_variants_have_the_published_sizes(variant: int, blocks: int, millions: float) -> None:
    """4.7, 5.4 and 6.1 million weights with the classifier (TensorFlow's repository)."""
    backbone = EfficientNetLite(variant, "BN")
    assert len(backbone.blocks) == blocks
    classifier = 1280 * (backbone.channels["res5"] + 2) + 1000 * (1280 + 1)
    size = sum(parameter.numel() for parameter in backbone.parameters())
    assert (size + classifier) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", ["Lite1", "large"])
def test_a_fresh_backbone_keeps_the_size_of_its_signal(name: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        features = BACKBONES[name]().train()(torch.randn(2, 3, 64, 64))
    assert all(0.1 < float(x.std()) < 10 for x in features.values())


NORMED: dict[str, Callable[[str], Backbone]] = {
    "R18": lambda norm: ResNet(18, norm),
    "R50": lambda norm: ResNet(50, norm),
    "small": lambda norm: MobileNetV3("small", norm),
    "Lite0": lambda norm: EfficientNetLite(0, norm),
}


@pytest.mark.parametrize("name", NORMED)
def test_frozen_statistics_are_batch_norm_in_evaluation_that_learns(name: str) -> None:
    theirs, ours = NORMED[name]("BN").double().eval(), NORMED[name]("FrozenStatsBN").double().train()
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)  # the names are the same
    assert list(ours.state_dict()) == list(theirs.state_dict())
    image = torch.randn(2, 3, 64, 64, dtype=torch.double)
    gradients = []
    for backbone in (theirs, ours):
        sum((x.square().mean() for x in backbone(image).values()), torch.zeros(())).backward()
        gradients.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-9, rtol=1e-7)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name  # the forward of a training changes no statistic


@pytest.mark.parametrize("size", [2, 40])  # more weights than cells, and fewer
@pytest.mark.parametrize("kernel", [1, 3])
def test_frozen_statistics_go_into_the_weights_with_the_same_gradients(kernel: int, size: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, kernel, padding=kernel // 2, bias=False).double()
    norm: Any = batch_norm("FrozenStatsBN", eps=1e-3)(6).double()
    randomize(norm)
    x = torch.randn(1, 8, size, size, dtype=torch.double)
    results = []
    for y in (convolve_norm(conv, norm, x), norm(conv(x))):
        results.append((y, *torch.autograd.grad(y.square().sum(), (conv.weight, norm.weight, norm.bias))))
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-9, rtol=1e-9)


TINY = {"embed_dim": 16, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "drop_path_rate": 0.5}
FREEZABLE: dict[str, Callable[[], Backbone]] = {
    **{f"{name}, BN": partial(make, "BN") for name, make in NORMED.items()},
    "Swin": lambda: swin(**TINY),
}
OUTPUT_NORMS = ("norm0.", "norm1.", "norm2.", "norm3.")
"""Of a Swin, which no weights of ImageNet have: they always learn."""


@pytest.mark.parametrize("freeze_at", range(6))
@pytest.mark.parametrize("name", FREEZABLE)
def test_frozen_stages_stay_and_no_backward_runs_through_them(name: str, freeze_at: int) -> None:
    torch.manual_seed(0)
    backbone = FREEZABLE[name]()
    backbone.freeze(freeze_at)
    before = deepcopy(backbone.state_dict())
    image = torch.randn(2, 3, 64, 64)
    features = backbone.train()(image)
    frozen = {id(p) for stage in backbone.stages()[:freeze_at] for m in stage for p in m.parameters()}
    learning = {key for key, parameter in backbone.named_parameters() if id(parameter) not in frozen}
    assert {key for key, parameter in backbone.named_parameters() if parameter.requires_grad} == learning
    assert reached(backbone, features.values()) == learning
    if name != "Swin":  # whose levels end with a norm that learns
        assert [x.requires_grad for x in features.values()] == [number >= freeze_at for number in range(1, 5)]
    for number, stage in enumerate(backbone.stages()):
        assert all(module.training == (number >= freeze_at) for module in stage)
    # statistics of batch norm: those of frozen stages stay, all others follow the images
    fixed = {id(b) for stage in backbone.stages()[:freeze_at] for m in stage for b in m.buffers()}
    moving = {backbone.stored_name(key) for key, value in backbone.named_buffers() if id(value) not in fixed}
    changed = {key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in moving if not key.endswith("_index")}


def reached(backbone: Backbone, maps: Iterable[Tensor]) -> set[str]:
    """The parameters that a backward from these maps comes to."""
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    found, seen = set(), set()
    open_nodes = [x.grad_fn for x in maps]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(names[id(node.variable)])
        open_nodes += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("name", FREEZABLE)
def test_the_stages_hold_every_parameter_once(name: str) -> None:
    backbone = FREEZABLE[name]()
    staged = [id(parameter) for stage in backbone.stages() for module in stage for parameter in module.parameters()]
    learnt = [id(p) for key, p in backbone.named_parameters() if not key.startswith(OUTPUT_NORMS)]
    assert len(backbone.stages()) == 5
    assert sorted(staged) == sorted(learnt)


def test_a_frozen_stage_is_frozen_in_a_copy_too() -> None:
    backbone = deepcopy(_frozen_swin())
    first = backbone(image := torch.randn(4, 3, 64, 64))["res2"]
    assert backbone.train().features[1].training is False
    assert backbone.features[3].training
    assert torch.equal(backbone(image)["res2"], first)  # res2 would drop half of its last block's images
    assert backbone.eval().features[3].training is False


def _frozen_swin() -> SwinTransformer:
    backbone = swin(**TINY)
    backbone.freeze(2)
    return backbone


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
