"""MobileNetV3: torchvision's network under torchvision's parameter names (detectron2 has none for it)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from torchvision.models import mobilenetv3

from ..backbones.base import LEVELS, Backbone, batch_norm

_BUILDERS = {"small": mobilenetv3.mobilenet_v3_small, "large": mobilenetv3.mobilenet_v3_large}
# The last layer of stride 4, 8, 16 and 32, and its width (Howard et al. 2019, tables 1 and 2)
_LAYERS = {"small": (1, 3, 8, 12), "large": (3, 6, 12, 16)}
_WIDTHS = {"small": (16, 24, 48, 576), "large": (24, 40, 112, 960)}


class MobileNetV3(Backbone):
    """A MobileNetV3 without its classifier (Howard et al. 2019).

    res5 is the last 1x1 convolution (576 or 960 channels), not the block before it: the paper's segmentation head and
    torchvision's detectors read it too, and so the whole of the pretrained network is used.

    Args:
        arch: "small" or "large".
        norm: "FrozenBN" (for pretrained weights), "BN" or "SyncBN", with the epsilon and momentum of its training.
    """

    def __init__(self, arch: str, norm: str):
        super().__init__()
        net: Any = _BUILDERS[arch](weights=None, norm_layer=batch_norm(norm, eps=1e-3, momentum=0.01))
        self.features = net.features
        self.channels = dict(zip(LEVELS, _WIDTHS[arch], strict=True))
        self._levels = dict(zip(_LAYERS[arch], LEVELS, strict=True))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images to the maps of the four levels."""
        features = {}
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self._levels:
                features[self._levels[number]] = x
        return features

    def stages(self) -> Sequence[Iterable[nn.Module]]:
        """The first convolution, then the layers of each stride."""
        ends = [1, *(number + 1 for number in self._levels)]
        return self.features[:1], *(self.features[start:end] for start, end in pairwise(ends))
