"""ResNet: torchvision's network under detectron2's parameter names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet

from ..backbones.base import LEVELS, Backbone, batch_norm, convolve_norm
from ..layers import GroupNorm, max_pool

_BUILDERS: dict[int, Callable[..., nn.Module]] = {
    18: resnet.resnet18,
    34: resnet.resnet34,
    50: resnet.resnet50,
    101: resnet.resnet101,
}

# torchvision's name -> detectron2's name, tried in order
_RENAMES = (
    (re.compile(r"^conv1\."), "stem.conv1."),
    (re.compile(r"^bn1\."), "stem.conv1.norm."),
    (re.compile(r"^layer(\d)\.(\d+)\.downsample\.0\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut."),
    (
        re.compile(r"^layer(\d)\.(\d+)\.downsample\.1\."),
        lambda m: f"res{int(m[1]) + 1}.{m[2]}.shortcut.norm.",
    ),
    (re.compile(r"^layer(\d)\.(\d+)\.bn(\d)\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
    (re.compile(r"^layer(\d)\.(\d+)\.conv(\d)\."), lambda m: f"res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
)


def detectron2_name(torchvision_name: str) -> str:
    """Translate the name of a ResNet parameter, e.g. `layer1.0.bn2.weight` -> `res2.0.conv2.norm.weight`."""
    for pattern, replacement in _RENAMES:
        name, found = pattern.subn(replacement, torchvision_name)
        if found:
            return name
    return torchvision_name


class ResNet(Backbone):
    """A ResNet-18/34/50/101 without its classifier (He et al. 2016; the stride is in the 3x3 convolution).

    Args:
        depth: 18, 34, 50 or 101.
        norm: "FrozenBN" (for pretrained weights), "BN", "SyncBN" or "GN" (from scratch).
    """

    def __init__(self, depth: int, norm: str):
        super().__init__()
        net: Any = _BUILDERS[depth](weights=None, norm_layer=_group_norm if norm == "GN" else batch_norm(norm))
        self.conv1, self.bn1 = net.conv1, net.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        widths = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
        self.channels = dict(zip(LEVELS, widths, strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images to the maps of the four levels."""
        x = max_pool(F.relu_(convolve_norm(self.conv1, self.bn1, x)))
        features = {}
        for level, stage in zip(LEVELS, (self.layer1, self.layer2, self.layer3, self.layer4), strict=True):
            for block in stage:
                x = _residual(block, x)
            features[level] = x
        return features

    def stages(self) -> Sequence[Iterable[nn.Module]]:
        """Stem, res2 to res5."""
        return (self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)

    def stored_name(self, name: str) -> str:
        """detectron2's name."""
        return detectron2_name(name)


def _residual(block: Any, x: Tensor) -> Tensor:
    """A BasicBlock (two convolutions) or a Bottleneck (three) of torchvision."""
    shortcut = x if block.downsample is None else convolve_norm(block.downsample[0], block.downsample[1], x)
    x = F.relu_(convolve_norm(block.conv1, block.bn1, x))
    x = convolve_norm(block.conv2, block.bn2, x)
    if isinstance(block, resnet.Bottleneck):
        x = convolve_norm(block.conv3, block.bn3, F.relu_(x))
    return F.relu_(x.add_(shortcut))


def _group_norm(channels: int) -> nn.Module:
    return GroupNorm(32, channels)
