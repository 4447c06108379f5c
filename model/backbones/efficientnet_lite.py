"""EfficientNet-Lite: the EfficientNet without squeeze-and-excitation, under the names of its published weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.base import LEVELS, Backbone, batch_norm, convolve_norm

# Width and depth of each variant in units of variant 0 (TensorFlow's efficientnet_lite_builder.py)
_SCALES = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2))
# Blocks, kernel, stride, expansion and channels of each stage (Tan and Le 2019, table 1)
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LAST = (1, 2, 4, 6)  # the last stage of stride 4, 8, 16 and 32
_STEM = 32  # channels, in all variants
_NAMES = re.compile(r"\b(conv_stem|blocks|bn\d|[a-z]+_conv)\b")


class EfficientNetLite(Backbone):
    """An EfficientNet-Lite without its classifier (Tan and Le 2019; Lite: Liu 2020, TensorFlow's repository).

    Each level is the last block of its stride, which ends without a ReLU. The pretraining's stochastic depth is left
    out. The input of the published weights is (pixel - 127) / 128.

    Args:
        variant: 0, 1 or 2.
        norm: "FrozenStatsBN" or "FrozenBN" (for pretrained weights), "BN" or "SyncBN", with the epsilon and momentum
            of its training.
    """

    def __init__(self, variant: int, norm: str):
        super().__init__()
        width_scale, depth_scale = _SCALES[variant]
        self.conv_stem = _convolution(3, _STEM, kernel=3, stride=2)
        self.bn0 = _norm(norm, _STEM)
        blocks: list[InvertedResidual] = []
        last, channels = [], _STEM
        for number, (depth, kernel, stride, expansion, width) in enumerate(_STAGES):
            if 0 < number < len(_STAGES) - 1:  # of Lite the first and the last stage keep their depth
                depth = math.ceil(depth * depth_scale)
            width = _rounded(width * width_scale)
            for i in range(depth):
                blocks.append(InvertedResidual(channels, width, kernel, 1 if i else stride, expansion, norm))
                channels = width
            last.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self._levels = {last[stage]: level for stage, level in zip(_LAST, LEVELS, strict=True)}
        self.channels = {level: blocks[number].channels for number, level in self._levels.items()}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images to the maps of the four levels."""
        if x.device.type == "cpu":  # oneDNN's depthwise convolutions would copy any other layout, back and forth
            x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(convolve_norm(self.conv_stem, self.bn0, _padded(self.conv_stem, x)), inplace=True)
        features = {}
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number in self._levels:
                features[self._levels[number]] = x.contiguous()
        return features

    def stages(self) -> Sequence[Iterable[nn.Module]]:
        """The first convolution, then the blocks of each stride."""
        ends = [0, *(number + 1 for number in self._levels)]
        return (self.conv_stem, self.bn0), *(self.blocks[start:end] for start, end in pairwise(ends))

    def stored_name(self, name: str) -> str:
        """The name in the published weights, whose modules begin with an underscore."""
        return _NAMES.sub(r"_\1", name)


class InvertedResidual(nn.Module):
    """A wide depthwise convolution between two 1x1 convolutions (Sandler et al. 2018).

    torchvision's has other names, and pads both sides alike; TensorFlow's weights have seen one side only.

    Args:
        in_channels, channels: of the maps that come in and go out.
        kernel, stride: of the depthwise convolution.
        expansion: its channels, in units of `in_channels`.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, expansion: int, norm: str):
        super().__init__()
        self.channels = channels
        self.is_residual = stride == 1 and in_channels == channels
        wide = in_channels * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = _convolution(in_channels, wide, kernel=1)
            self.bn0 = _norm(norm, wide)
        self.depthwise_conv = _convolution(wide, wide, kernel=kernel, stride=stride, groups=wide)
        self.bn1 = _norm(norm, wide)
        self.project_conv = _convolution(wide, channels, kernel=1)
        self.bn2 = _norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, channels, H / stride, W / stride)."""
        shortcut = x
        if self.expands:
            x = F.relu6(convolve_norm(self.expand_conv, self.bn0, x), inplace=True)
        x = F.relu6(convolve_norm(self.depthwise_conv, self.bn1, _padded(self.depthwise_conv, x)), inplace=True)
        x = convolve_norm(self.project_conv, self.bn2, x)
        return x.add_(shortcut) if self.is_residual else x


def _convolution(in_channels: int, channels: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution with "same" padding; of stride 2, `_padded` does it."""
    padding = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)
    # TensorFlow's: normal by fan-out, which for a depthwise convolution is one channel's
    nn.init.normal_(conv.weight, std=math.sqrt(2 * groups / (kernel**2 * channels)))
    return conv


def _padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """TensorFlow's "same" padding for stride 2: of a map of even sides the last row and column get one more."""
    if conv.stride == (1, 1):
        return x
    total = conv.kernel_size[0] - 2
    return F.pad(x, (total // 2, total - total // 2) * 2)


def _norm(norm: str, channels: int) -> nn.Module:
    return batch_norm(norm, eps=1e-3, momentum=0.01)(channels)


def _rounded(channels: float) -> int:
    """The nearest multiple of 8, but not less than 90 % of `channels` (TensorFlow's round_filters)."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
