"""Multi-scale deformable attention (Deformable DETR, equation 3).

Shapes: B images, S cells of all levels together, M heads, D channels of a head (C = M D), L levels, P points.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = list[tuple[int, int]]
"""Height and width of each level, coarse to fine."""


class MSDeformAttn(nn.Module):
    """Each cell attends to P sampled points on each level around its own place."""

    def __init__(self, channels: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.sampling_offsets = nn.Linear(channels, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(channels, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """At first head m looks in direction m, point p at distance p + 1 cells, all with equal weight."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        grid = direction[:, None, None, :] * distance[None, None, :, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(grid.expand(-1, self.num_levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query: Tensor, reference: Tensor, source: Tensor, shapes: Shapes) -> Tensor:
        """Attend from every cell to sampled points.

        Args:
            query: (B, S, C), cells with their position encoding.
            reference: (S, 2), each cell's own place as (x, y) in [0, 1].
            source: (B, S, C), the cells of all levels.
            shapes: the levels' sizes; their products add up to S.

        Returns:
            (B, S, C)
        """
        B, S, C = query.shape
        M, L, P = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(source).view(B, S, M, C // M)
        offsets = self.sampling_offsets(query).view(B, S, M, L, P, 2)
        weights = self.attention_weights(query).view(B, S, M, L * P).softmax(-1).view(B, S, M, L, P)
        size = torch.tensor([(w, h) for h, w in shapes], dtype=query.dtype, device=query.device)
        locations = reference[None, :, None, None, None, :] + offsets / size[:, None, :]
        attended: Tensor = self.output_proj(deformable_sampling(value, shapes, locations, weights))
        return attended


def deformable_sampling(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum of bilinearly sampled values: the inner sums of equation 3.

    Args:
        value: (B, S, M, D).
        shapes: the levels' sizes.
        locations: (B, S, M, L, P, 2), (x, y) in [0, 1] of each level; what lies outside counts as zero.
        weights: (B, S, M, L, P), adding up to one over levels and points.

    Returns:
        (B, S, M * D)
    """
    B, S, M, D = value.shape
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (B*M, S, L, P, 2)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (B*M, S, L, P)
    output = value.new_zeros(B * M, D, S)
    for level, ((h, w), cells) in enumerate(zip(shapes, value.split([h * w for h, w in shapes], dim=1), strict=True)):
        maps = cells.permute(0, 2, 3, 1).reshape(B * M, D, h, w)
        sampled = F.grid_sample(maps, grid[:, :, level], align_corners=False)  # (B*M, D, S, P)
        output = output + (sampled * weights[:, None, :, level]).sum(-1)
    return output.view(B, M * D, S).transpose(1, 2)
