"""ResNet feature pyramids: torchvision's network under detectron2's parameter names.

Shapes: B images, H W pixels; level resN has stride 2**N and shape (B, C_N, H / 2**N, W / 2**N).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.ops import FrozenBatchNorm2d

LEVELS = ("res2", "res3", "res4", "res5")

_BUILDERS: dict[int, Callable[..., nn.Module]] = {
    18: resnet.resnet18,
    34: resnet.resnet34,
    50: resnet.resnet50,
    101: resnet.resnet101,
}

_NORMS: dict[str, Callable[[int], nn.Module]] = {
    "FrozenBN": FrozenBatchNorm2d,
    "BN": nn.BatchNorm2d,
    "SyncBN": nn.SyncBatchNorm,
    "GN": lambda channels: nn.GroupNorm(32, channels),
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


class ResNet(nn.Module):
    """A ResNet-18/34/50/101 without its classifier (He et al. 2016; the stride is in the 3x3 convolution).

    Args:
        depth: 18, 34, 50 or 101.
        norm: "FrozenBN" (for pretrained weights), "BN", "SyncBN" or "GN" (from scratch).
    """

    def __init__(self, depth: int, norm: str):
        super().__init__()
        net: Any = _BUILDERS[depth](weights=None, norm_layer=_NORMS[norm])
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        widths = (64, 128, 256, 512) if depth < 50 else (256, 512, 1024, 2048)
        self.channels = dict(zip(LEVELS, widths, strict=True))
        self.register_state_dict_post_hook(_to_detectron2)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_detectron2)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images to the maps of the four levels."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        features = {}
        for level, stage in zip(LEVELS, (self.layer1, self.layer2, self.layer3, self.layer4), strict=True):
            features[level] = x = stage(x)
        return features


def _to_detectron2(module: nn.Module, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + detectron2_name(name[len(prefix) :])] = state.pop(name)


def _from_detectron2(module: nn.Module, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    # the module's own names, not its state_dict(): that one is already translated
    own = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for name in own:
        stored = prefix + detectron2_name(name)
        if stored in state:
            state[prefix + name] = state.pop(stored)
