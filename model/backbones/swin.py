"""Swin Transformer: torchvision's network under the parameter names of Mask2Former and of Swin's own repository.

Shapes: B images, H W cells of a map, C channels, N cells of a window.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import swin_transformer as torchvision_swin

from ..backbones.base import LEVELS, Backbone

APART = -100.0  # added to the attention between cells that are neighbours through the roll alone

# torchvision's name -> the published one, tried in order
_RENAMES = (
    (re.compile(r"^features\.0\.0\."), "patch_embed.proj."),
    (re.compile(r"^features\.0\.2\."), "patch_embed.norm."),
    (re.compile(r"^features\.([1357])\.(\d+)\."), lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
    (re.compile(r"^features\.([246])\."), lambda m: f"layers.{int(m[1]) // 2 - 1}.downsample."),
)
_MLP = {".mlp.0.": ".mlp.fc1.", ".mlp.3.": ".mlp.fc2."}


class SwinTransformer(Backbone):
    """A Swin Transformer without its classifier, each level through a LayerNorm of its own (Liu et al. 2021).

    Args:
        embed_dim: width of res2; it doubles with each level.
        depths: blocks of each level.
        num_heads: attention heads of each level.
        window_size: side of an attention window, in cells.
        drop_path_rate: share of images for which the last block is left out in training; it grows from 0 at the first.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: int,
        drop_path_rate: float,
    ):
        super().__init__()
        net: Any = torchvision_swin.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=embed_dim,
            depths=list(depths),
            num_heads=list(num_heads),
            window_size=[window_size, window_size],
            stochastic_depth_prob=drop_path_rate,
            block=partial(torchvision_swin.SwinTransformerBlock, attn_layer=WindowAttention),
        )
        self.features: nn.Sequential = net.features
        self.channels = {level: embed_dim * 2**i for i, level in enumerate(LEVELS)}
        for i, width in enumerate(self.channels.values()):
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) normalised images to the maps of the four levels."""
        features = {}
        for i, level in enumerate(LEVELS):
            x = self.features[2 * i + 1](self.features[2 * i](x))  # (B, H, W, C): patches or merging, then the blocks
            normed: Tensor = getattr(self, f"norm{i}")(x)
            features[level] = normed.permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)
        return features

    def stages(self) -> Sequence[Iterable[nn.Module]]:
        """Patch embedding, then the levels, each with the merging before it but without its output's LayerNorm.

        No weights of ImageNet have those norms: they start fresh and always learn.
        """
        return self.features[:1], *(self.features[max(2 * i, 1) : 2 * i + 2] for i in range(len(LEVELS)))

    def stored_name(self, name: str) -> str:
        """The name in the weights that Microsoft published."""
        for pattern, replacement in _RENAMES:
            stored, found = pattern.subn(replacement, name)
            if found:
                return re.sub(r"\.mlp\.[03]\.", lambda m: _MLP[m[0]], stored)
        return name


class WindowAttention(nn.Module):
    """torchvision's shifted window attention, with the reference's shift of small maps as well.

    torchvision does not shift along a side that fits into one window; the published Swin does, and keeps the two parts
    apart by a mask. The roll and the mask of such a side are added here.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, window_size: list[int], shift_size: list[int], num_heads: int, **dropout: float):
        super().__init__()
        layer: Any = torchvision_swin.ShiftedWindowAttention(dim, window_size, shift_size, num_heads, **dropout)
        self.window_size, self.shift_size, self.num_heads = window_size, shift_size, num_heads
        self.qkv, self.proj = layer.qkv, layer.proj
        self.relative_position_bias_table: nn.Parameter = layer.relative_position_bias_table
        cells = window_size[0] * window_size[1]
        self.register_buffer("relative_position_index", layer.relative_position_index.view(cells, cells))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape, attended within windows; the bias is (1, heads, N, N)."""
        height, width = x.shape[1:3]
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)[None]
        down, right = (  # what torchvision leaves out
            step if side <= window else 0
            for side, window, step in zip((height, width), self.window_size, self.shift_size, strict=True)
        )
        if not (down or right):
            return self._attend(x, bias)
        pad = (self.window_size[1] - width if right else 0, self.window_size[0] - height if down else 0)
        x = F.pad(x, (0, 0, 0, pad[0], 0, pad[1])).roll((-down, -right), (1, 2))
        x = self._attend(x, bias + self._mask(down, right, x.device))
        return x.roll((down, right), (1, 2))[:, :height, :width]

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        attended: Tensor = torchvision_swin.shifted_window_attention(
            x,
            self.qkv.weight,
            self.proj.weight,
            bias,
            self.window_size,
            self.num_heads,
            shift_size=self.shift_size,
            qkv_bias=self.qkv.bias,
            proj_bias=self.proj.bias,
            training=self.training,
        )
        return attended

    def _mask(self, down: int, right: int, device: torch.device) -> Tensor:
        """(N, N): 0 between cells of one part of the rolled window, APART between cells of different parts."""
        rows, columns = (torch.arange(side, device=device) for side in self.window_size)
        below, beside = rows >= len(rows) - down, columns >= len(columns) - right
        part = (2 * below.int()[:, None] + beside.int()).flatten()  # (N,)
        return (part[:, None] != part) * APART
