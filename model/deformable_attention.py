"""Multi-scale deformable attention (Deformable DETR, equation 3).

Shapes: B images, S cells of all levels together, M heads, D channels of a head (C = M D), L levels, P points.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .deformable_sampling import Shapes, deformable_sampling
from .layers import Linear, linear


class MSDeformAttn(nn.Module):
    """Each cell attends to P sampled points on each level around its own place."""

    def __init__(self, channels: int, num_levels: int, num_heads: int, num_points: int):
        super().__init__()
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        self.sampling_offsets = Linear(channels, num_heads * num_levels * num_points * 2)
        self.attention_weights = Linear(channels, num_heads * num_levels * num_points)
        self.value_proj = Linear(channels, channels)
        self.output_proj = Linear(channels, channels)
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
            reference: (S, 2, L), each cell's own place on each level: x and y in cells of that level.
            source: (B, S, C), the cells of all levels.
            shapes: the levels' sizes; their products add up to S.

        Returns:
            (B, S, C)
        """
        B, S, C = query.shape
        M, L, P = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(source).view(B, S, M, C // M)
        # the paper scales offsets by the level's size to move in [0, 1]; in cells they are what they are
        places = reference[:, :, None, :, None] + self.offsets(query).view(B, S, 2, M, L, P)
        weights = self.attention_weights(query).view(B, S, M, L * P).softmax(-1).view(B, S, M, L, P)
        attended: Tensor = self.output_proj(deformable_sampling(value, shapes, places, weights))
        return attended

    def offsets(self, query: Tensor) -> Tensor:
        """(B, S, 2 * M * L * P): all x, then all y. The stored weights alternate between the two."""
        weight, bias = self.sampling_offsets.weight, self.sampling_offsets.bias
        return linear(query, weight.unflatten(0, (-1, 2)).transpose(0, 1).flatten(0, 1), bias.view(-1, 2).T.flatten())


def cell_places(shapes: Shapes, device: torch.device) -> Tensor:
    """(S, 2, L): where the centre of each cell of each level lies on every level, x and y in cells of that level."""
    x, y = torch.cat([_cell_centres(h, w, device) for h, w in shapes], dim=1)
    on_every_level = [torch.stack((x * w - 0.5, y * h - 0.5), -1) for h, w in shapes]  # (S, 2) each
    return torch.stack(on_every_level, -1)


def _cell_centres(height: int, width: int, device: torch.device) -> Tensor:
    """(2, height * width): x and y of the centre of each cell, in [0, 1] from edge to edge."""
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((xx, yy)).flatten(1)
