"""Small layers that several parts of the network share, with detectron2's parameter names."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNorm(nn.Conv2d):
    """A convolution with its own GroupNorm (`weight`, `norm.weight` as in detectron2), perhaps a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, norm: bool, relu: bool = False):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.norm = nn.GroupNorm(32, out_channels) if norm else None
        self.relu = relu
        xavier_fill(self)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu_(x) if self.relu else x


class MLP(nn.Module):
    """A perceptron with ReLU between its layers (DETR's FFN head)."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int, num_layers: int):
        super().__init__()
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


def xavier_fill(conv: nn.Conv2d) -> None:
    """Initialise a convolution as Caffe2's "XavierFill", which detectron2 uses: uniform by fan-in, bias 0."""
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def xavier_uniform_matrices(module: nn.Module) -> None:
    """Initialise every matrix of `module` Xavier-uniform; vectors keep what they have."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
