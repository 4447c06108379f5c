"""What all backbones share: torchvision's network, four maps, and the parameter names of the published weights.

Shapes: B images, H W pixels; level resN has stride 2**N and shape (B, C_N, H / 2**N, W / 2**N).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ..layers import convolve

T = TypeVar("T", bound="Backbone")

LEVELS = ("res2", "res3", "res4", "res5")


class Backbone(nn.Module):
    """The contract: `channels`, and a forward that maps normalised images to the four levels.

    The modules are torchvision's and keep its names; the state dict has those of `stored_name`, in which weights are
    published for Mask2Former.

    Attributes:
        channels: width of each level.
    """

    channels: dict[str, int]

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []
        self.register_state_dict_post_hook(_to_stored)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_from_stored)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), H and W multiples of 32, to the map of each level."""
        raise NotImplementedError

    def stages(self) -> Sequence[Iterable[nn.Module]]:
        """What learns between the image and each level: stem, res2, res3, res4, res5."""
        raise NotImplementedError

    def freeze(self, freeze_at: int) -> None:
        """Freeze the first `freeze_at` of `stages` (detectron2's FREEZE_AT): 1 is the stem, 2 the stem and res2, ...

        Their parameters get no gradient, no backward runs through them, and they stay as in evaluation: the statistics
        of batch norm are fixed, and Swin drops none of their blocks.
        """
        self._frozen = [module for stage in self.stages()[:freeze_at] for module in stage]
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self: T, mode: bool = True) -> T:
        """As of every module, but frozen stages stay in evaluation."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def stored_name(self, name: str) -> str:
        """The name in the state dict of what torchvision calls `name`; any other name is returned as it is."""
        return name


class FrozenStatsBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose mean and variance stay those of the weights, in training too; scale and shift are learnt.

    For a pretrained backbone and batches too small to have statistics of their own (Keras' and mmdetection's
    `norm_eval`). The state dict is that of nn.BatchNorm2d.
    """

    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, training=False, eps=self.eps)


_FROZEN_STATS = (FrozenBatchNorm2d, FrozenStatsBatchNorm2d)


def batch_norm(norm: str, *, eps: float = 1e-5, momentum: float = 0.1) -> Callable[[int], nn.Module]:
    """A layer of a given width.

    "FrozenBN" (statistics and scale never change), "FrozenStatsBN" (the statistics do not), "BN" or "SyncBN".
    """
    if norm == "FrozenBN":
        return partial(FrozenBatchNorm2d, eps=eps)
    kind = {"FrozenStatsBN": FrozenStatsBatchNorm2d, "BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}[norm]
    return partial(kind, eps=eps, momentum=momentum)


def convolve_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(conv(x))`; frozen statistics go into the weights where these are smaller than the maps that come out."""
    if isinstance(norm, _FROZEN_STATS) and conv.bias is None and _is_worth_folding(conv, x):
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return convolve(conv, x, conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale)
    y: Tensor = norm(convolve(conv, x, conv.weight, conv.bias))
    return y


def _is_worth_folding(conv: nn.Conv2d, x: Tensor) -> bool:
    if torch.compiler.is_exporting():
        return True  # the number of images is unknown, and the weights are folded once
    cells = x.numel() // (x.shape[1] * math.prod(conv.stride))  # of these maps, all images together
    return conv.weight[0].numel() < cells


def _to_stored(module: Backbone, state: dict[str, Tensor], prefix: str, metadata: Any) -> None:
    for name in [name for name in state if name.startswith(prefix)]:
        state[prefix + module.stored_name(name[len(prefix) :])] = state.pop(name)


def _from_stored(module: Backbone, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
    # the module's own names, not its state_dict(): that one is already translated
    own = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    for name in own:
        stored = prefix + module.stored_name(name)
        if stored in state:
            state[prefix + name] = state.pop(stored)
