"""Linear layers and 1x1 convolutions, however they are computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytune_m2f.model import layers
from raytune_m2f.model.layers import (
    Conv2d,
    DepthwiseConvolution,
    GroupNorm,
    Linear,
    linear,
    max_pool,
    softmax_of_few,
)

LARGE = (3, 70, 256)  # (B, S, C); with 128 outputs more multiplications than WORTH_IT


@pytest.fixture(params=["MKL", "oneDNN"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either way, whatever this processor prefers."""
    wanted = request.param == "oneDNN"
    if wanted and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(layers, "by_onednn", lambda x: wanted)
    return str(request.param)


def with_gradients(compute: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The result, and the gradients of its inputs under a fixed weight of each number."""
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    result = compute(*inputs)
    weight = torch.linspace(-1, 1, result.numel()).view_as(result)
    return [result.detach(), *torch.autograd.grad((result * weight).sum(), inputs)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [LARGE, (*LARGE[1:],), (2, 1, 35, 256), (5, 256), (256,)])
def test_a_linear_layer_is_torchs(shape: tuple[int, ...], relu: bool, library: str) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(384, 256), torch.randn(384)

    def wanted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.linear(x, weight, bias)) if relu else F.linear(x, weight, bias)

    got = with_gradients(lambda *inputs: linear(*inputs, relu=relu), x, weight, bias)
    for ours, theirs in zip(got, with_gradients(wanted, x, weight, bias), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


def test_parts_of_a_weight_and_views_are_taken(library: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(LARGE).transpose(0, 1), torch.randn(3 * 128, 256)
    torch.testing.assert_close(linear(x, weight.chunk(3)[1]), x @ weight[128:256].T, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_is_torchs(kernel: int, stride: int, library: str) -> None:
    torch.manual_seed(0)
    ours = Conv2d(64, 32, kernel, stride, padding=kernel // 2)
    x = torch.randn(2, 64, 20, 24)
    for got, wanted in zip(
        with_gradients(ours, x), with_gradients(lambda x: nn.Conv2d.forward(ours, x), x), strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [((16, 24), 1, 2), ((19, 35), 2, 0), ((8, 8), 1, 2), ((7, 9), 1, 0)]
)
def test_the_gradients_of_a_depthwise_convolution_are_torchs(
    size: tuple[int, int], stride: int, padding: int, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 48, *size), torch.randn(48, 1, 5, 5), torch.randn(48)
    x = x.contiguous(memory_format=layout)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y: Tensor = DepthwiseConvolution.apply(x, weight, bias, (stride, stride), (padding, padding))
        return y

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, groups=48)

    wanted = with_gradients(plain, x, weight, bias)
    for got, theirs in zip(with_gradients(ours, x, weight, bias), wanted, strict=True):
        torch.testing.assert_close(got, theirs, atol=1e-4, rtol=1e-4)
    frozen = ours(x, weight.requires_grad_(), bias)  # the gradient of the weights alone
    assert [torch.is_tensor(grad) for grad in torch.autograd.grad(frozen.sum(), (weight,))] == [True]


@pytest.mark.parametrize(("kernel", "groups", "learns", "own"), [
    (5, 32, True, True), (5, 32, False, False), (3, 32, True, False), (5, 1, True, False), (5, 16, True, False),
])  # fmt: skip
def test_the_gradient_of_its_own_is_for_depthwise_5x5_that_learn(
    kernel: int, groups: int, learns: bool, own: bool, library: str
) -> None:
    conv = Conv2d(32, 32, kernel, padding=kernel // 2, groups=groups).requires_grad_(learns)
    used = operations(conv(torch.randn(2, 32, 20, 24, requires_grad=True)))
    assert any("DepthwiseConvolution" in name for name in used) == (own and library == "oneDNN")


def operations(result: Tensor) -> set[str]:
    """What autograd will go back through."""
    found, open_nodes = set(), [result.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is not None:
            found.add(node.name())
            open_nodes += [before for before, _ in node.next_functions]
    return found


def test_a_large_layer_is_a_convolution_and_a_small_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "by_onednn", lambda x: True)
    layer = Linear(256, 128)
    assert "ConvolutionBackward0" in operations(layer(torch.randn(LARGE)))
    assert "ConvolutionBackward0" not in operations(layer(torch.randn(2, 256)))


def test_onednn_takes_large_float32_on_a_cpu_with_wide_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    large = torch.zeros(200, 256)
    assert layers.by_onednn(large)
    assert not layers.by_onednn(large.double())
    assert not layers.by_onednn(large[:2])
    assert not layers.by_onednn(large.to("meta"))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert not layers.by_onednn(large)


def test_group_norm_is_torch_s_and_takes_single_numbers() -> None:
    ours, theirs = GroupNorm(4, 8), nn.GroupNorm(4, 8)
    nn.init.normal_(ours.weight)
    nn.init.normal_(ours.bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 8, 3, 5)
    assert torch.equal(ours(x), theirs(x))
    single = GroupNorm(8, 8)
    nn.init.normal_(single.bias)
    assert torch.equal(single(torch.randn(1, 8, 1, 1)).flatten(), single.bias)


@pytest.mark.parametrize("shape", [(2, 5, 3, 12), (0, 4), (7, 1)])
def test_a_softmax_of_few_is_torchs(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = 10 * torch.randn(shape)
    ours, theirs = (with_gradients(compute, x) for compute in (softmax_of_few, lambda x: x.softmax(-1)))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    assert softmax_of_few(x).is_contiguous()


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (2, 1)])
def test_a_maximum_without_gradients_is_torchs(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size)
    x[0, 0, 0, 0] = float("nan")
    wanted = F.max_pool2d(x, 3, 2, 1)
    with torch.no_grad():
        torch.testing.assert_close(max_pool(x), wanted, atol=0, rtol=0, equal_nan=True)
    torch.testing.assert_close(max_pool(x.requires_grad_()), wanted, atol=0, rtol=0, equal_nan=True)
