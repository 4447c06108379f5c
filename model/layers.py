"""What several parts of the network share: small layers with detectron2's parameter names, and the position encoding.

Shapes: C inputs and N outputs of a linear layer, over any dimensions before them; maps are (B, C, H, W).
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ONEDNN_FLOATS = 20480  # torch never gives oneDNN a single image of no more numbers than these
WORTH_IT = 2**22  # multiplications below which `linear` gains nothing as a convolution
TEMPERATURE, EPSILON = 10000.0, 1e-6  # of the position encoding


class Linear(nn.Linear):
    """torch's layer, computed by `linear`, perhaps with a ReLU."""

    def __init__(self, in_features: int, out_features: int, *, relu: bool = False):
        super().__init__(in_features, out_features)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., N)."""
        return linear(x, self.weight, self.bias, relu=self.relu)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """`F.linear`; on a CPU with AVX-512 a large one is a 1x1 convolution, forward and backward.

    There torch multiplies matrices with MKL, which leaves half of the vector width unused unless the processor is
    Intel's (100 against 220 GFLOP/s of an EPYC), and convolves with oneDNN, which uses it on all.

    Args:
        x: (..., C).
        weight: (N, C).
        bias: (N,).
        relu: whether a ReLU follows.

    Returns:
        (..., N)
    """
    rows = x.reshape(-1, x.shape[-1])
    if by_onednn(x) and x.numel() * len(weight) >= WORTH_IT:
        # (1, C, 1, rows), channels last, and so is the result: it is read by rows without a copy
        cells = rows.contiguous()[None, None].permute(0, 3, 1, 2)
        y = F.conv2d(cells, weight[:, :, None, None], bias, dilation=2)
        # in place before it becomes a view: autograd copies what lies behind one
        y = (F.relu_(y) if relu else y).permute(0, 2, 3, 1)
    else:
        y = F.linear(rows, weight, bias)
        y = F.relu_(y) if relu else y
    return y.view(*x.shape[:-1], len(weight))


def softmax_of_few(x: Tensor) -> Tensor:
    """`x.softmax(-1)` of (..., K) with a small K: across lines on a CPU, where torch fills no vector with few numbers.

    Of twelve numbers that is ten times as fast forward, and four times with backward.
    """
    if x.device.type != "cpu":
        return x.softmax(-1)
    return x.movedim(-1, 0).contiguous().softmax(0).movedim(0, -1).contiguous()


def max_pool(x: Tensor) -> Tensor:
    """Maximum of 3x3 cells around every other one (ResNet's), (B, C, H, W) to (B, C, H / 2, W / 2) rounded up.

    Without gradients, which need to know where each maximum lies, on a CPU six times as fast as torch's.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    x = F.pad(x, (1, 1, 1, 1), value=-math.inf)
    x = torch.maximum(torch.maximum(x[:, :, :-2:2], x[:, :, 1:-1:2]), x[:, :, 2::2])
    return torch.maximum(torch.maximum(x[..., :-2:2], x[..., 1:-1:2]), x[..., 2::2])


class Conv2d(nn.Conv2d):
    """torch's layer, computed by `convolve`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, H', W')."""
        return convolve(self, x, self.weight, self.bias)


def convolve(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`conv` with this weight and bias, on a CPU with AVX-512 always by oneDNN.

    With one thread torch leaves 1x1 convolutions to MKL (see `linear`), unless they are dilated: which for a single
    tap means nothing. The weights' gradient of a depthwise 5x5 is `DepthwiseConvolution`'s.
    """
    if weight.requires_grad and not x.is_contiguous():
        # the gradient in the layout of the weights, not of the maps: DDP's buckets have that one
        weight = weight.flatten(1).view(weight.shape)
    depthwise = conv.groups == x.shape[1] == len(weight) > 1 and conv.kernel_size == (5, 5)
    if depthwise and by_onednn(x) and torch.is_grad_enabled() and weight.requires_grad:
        y: Tensor = DepthwiseConvolution.apply(x, weight, bias, conv.stride, conv.padding)
        return y
    dilation = (2, 2) if conv.kernel_size == (1, 1) and by_onednn(x) else conv.dilation
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, dilation, conv.groups)


class DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution of kernel 5; the gradient of its weights comes from two kernels of three columns.

    oneDNN's own program for that gradient takes three columns at most: five are left to a general one, 10 to 30 times
    slower. The outer columns of two narrow kernels, one over the left of the map and one over the right, are the same
    five sums.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        """(B, C, H, W) and (C, 1, 5, 5) to (B, C, H', W')."""
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        wants_x, _, wants_bias, *_ = ctx.needs_input_grad
        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format

        def gradients(x: Tensor, weight: Tensor, padding: tuple[int, int], *, of_x: bool) -> Any:
            wanted = (of_x, not of_x, False)  # of x, weight, bias
            return torch.ops.aten.convolution_backward(
                grad, x, weight, None, ctx.stride, padding, (1, 1), False, (0, 0), len(weight), wanted
            )

        rows, columns = ctx.padding
        halves = (F.pad(x, sides) for sides in ((columns, columns - 2), (columns - 2, columns)))
        left, right = (
            gradients(half.contiguous(memory_format=layout), weight[..., :3], (rows, 0), of_x=False)[1]
            for half in halves
        )
        return (
            gradients(x, weight, ctx.padding, of_x=True)[0] if wants_x else None,
            torch.cat((left, right[..., 1:]), dim=-1),
            # with the weights' gradient torch would compute it again
            grad.sum((0, 2, 3)) if wants_bias else None,
            None,
            None,
        )


def by_onednn(x: Tensor) -> bool:
    """Whether oneDNN would convolve `x`, and with vectors that MKL may leave unused; compiled code chooses itself."""
    return (
        not torch.compiler.is_compiling()  # first: in an exported graph the number of images is unknown
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.numel() > ONEDNN_FLOATS
        and torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
    )


class GroupNorm(nn.GroupNorm):
    """torch's layer, also for a map of one cell, whose groups may then be a single number each.

    torch refuses such a map of one image; of several it amplifies rounding errors. A single number is its own mean.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        if x[0].numel() > self.num_groups:
            return super().forward(x)
        return (x - x) * self.weight[:, None, None] + self.bias[:, None, None]


class ConvNorm(Conv2d):
    """A convolution with its own GroupNorm (`weight`, `norm.weight` as in detectron2), perhaps a ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, norm: bool, relu: bool = False):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=not norm)
        self.norm = GroupNorm(32, out_channels) if norm else None
        self.relu = relu
        xavier_fill(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, H, W)."""
        x = super().forward(x)
        if self.norm is not None:
            x = self.norm(x)
        return F.relu_(x) if self.relu else x


class MLP(nn.Module):
    """A perceptron with ReLU between its layers (DETR's FFN head)."""

    def __init__(self, in_features: int, hidden_features: int, out_features: int, num_layers: int):
        super().__init__()
        widths = [in_features, *[hidden_features] * (num_layers - 1), out_features]
        self.layers = nn.ModuleList(
            Linear(*pair, relu=number < num_layers) for number, pair in enumerate(pairwise(widths), 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        for layer in self.layers:
            x = layer(x)
        return x


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


def sine_position_encoding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Encode each cell's place as sines and cosines of its normalised y and x (section 3.2.2; DETR appendix A.4).

    Args:
        height, width: cells of the map.
        channels: C, divisible by 4.
        device: where the encoding is wanted.

    Returns:
        (C, H, W) float32; the first C/2 channels encode y, the others x.
    """
    y = _encode(_angles(height, device), channels)[:, None, :].expand(height, width, channels // 2)
    x = _encode(_angles(width, device), channels)[None, :, :].expand(height, width, channels // 2)
    return torch.cat((y, x), dim=-1).permute(2, 0, 1)


def encode_places(x: Tensor, y: Tensor, channels: int) -> Tensor:
    """The same code for places between the cells: (...) each, in [0, 1] of the image, to (..., C)."""
    return torch.cat((_encode(2 * math.pi * y, channels), _encode(2 * math.pi * x, channels)), dim=-1)


def _angles(length: int, device: torch.device) -> Tensor:
    """Positions 1..length, scaled to (0, 2 pi]."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    return position / (length + EPSILON) * 2 * math.pi


def _encode(angles: Tensor, channels: int) -> Tensor:
    """(...) to (..., C / 2), sines and cosines in turn."""
    features = channels // 2
    index = torch.arange(features, dtype=torch.float32, device=angles.device)
    period = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / features)
    angle = angles[..., None] / period
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2)
