"""Multi-scale deformable attention (Deformable DETR, equation 3): the layer, and its sums for each kind of device.

Shapes: B images, S cells of all levels together, M heads, D channels of a head (C = M D), L levels, P points;
N = B S M sums, each over K = L P sampled points of 4 corners; T cells of all levels with their borders.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .layers import Linear, linear, softmax_of_few

Shapes = Sequence[tuple[int, int]]
"""Height and width of each level, coarse to fine."""

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns once per process that CSR tensors are in beta: triggered here
    torch.sparse_csr_tensor([0], [], [], (0, 0))

BORDER = 2  # cells of zeros around a level: a point beyond it has four corners in the border, so value and gradient 0


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
        weights = softmax_of_few(self.attention_weights(query).view(B, S, M, L * P)).view(B, S, M, L, P)
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


def deformable_sampling(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """Sum bilinearly sampled values, weighted.

    On a CPU sums of table rows are three to six times faster than `grid_sample` with the usual 32 channels a head,
    and equal with 8; compiled code and other devices take the latter.

    Args:
        value: (B, S, M, D) float32.
        shapes: the levels' sizes; their products add up to S.
        places: (B, S, 2, M, L, P), x and y in cells of the level, (0, 0) being the centre of its first cell;
            what lies outside counts as zero.
        weights: (B, S, M, L, P).

    Returns:
        (B, S, M * D)
    """
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        return sample_by_rows(value, shapes, places, weights)
    return sample_by_grid(value, shapes, places, weights)


def sample_by_grid(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """`deformable_sampling` with one `grid_sample` for each level."""
    B, S, M, D = value.shape
    x, y = (place.transpose(1, 2).flatten(0, 1) for place in places.unbind(2))  # (B*M, S, L, P)
    weights = weights.transpose(1, 2).flatten(0, 1)  # (B*M, S, L, P)
    output = value.new_zeros(B * M, D, S)
    for level, ((h, w), cells) in enumerate(zip(shapes, value.split([h * w for h, w in shapes], dim=1), strict=True)):
        maps = cells.permute(0, 2, 3, 1).reshape(B * M, D, h, w)
        # in [-1, 1] from edge to edge
        grid = torch.stack(((2 * x[:, :, level] + 1) / w - 1, (2 * y[:, :, level] + 1) / h - 1), -1)
        sampled = F.grid_sample(maps, grid, align_corners=False)  # (B*M, D, S, P)
        output = output + (sampled * weights[:, None, :, level]).sum(-1)
    return output.view(B, M * D, S).transpose(1, 2)


def sample_by_rows(value: Tensor, shapes: Shapes, places: Tensor, weights: Tensor) -> Tensor:
    """`deformable_sampling` as weighted sums of the rows of a table: the values with a border of zeros."""
    B, S, M, D = value.shape
    tables = [
        F.pad(cells.view(B, h, w, M * D), (0, 0, BORDER, BORDER, BORDER, BORDER)).flatten(1, 2)
        for (h, w), cells in zip(shapes, value.split([h * w for h, w in shapes], dim=1), strict=True)
    ]
    table = torch.cat(tables, dim=1).view(-1, D)  # (B*T*M, D)
    summed: Tensor = _WeightedRows.apply(table, places, weights, shapes)
    return summed.view(B, S, M * D)


class _WeightedRows(torch.autograd.Function):
    """Forward: a bag of 4 K rows for each sum. Backward: the transposed sums, once the points are sorted by row."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, places: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
        row, right, down = _upper_left(places, shapes)
        steps = _steps(shapes, weights.shape[2], weights.shape[4])
        corners = _corner_weights(weights.reshape(row.shape), right, down, dim=1)
        ctx.save_for_backward(table, row, right, down, weights, steps)
        ctx.shapes = shapes
        rows = (row[:, None] + steps).flatten(1)
        return F.embedding_bag(rows, table, mode="sum", per_sample_weights=corners.flatten(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        table, row, right, down, weights, steps = ctx.saved_tensors
        grad, weight = grad.contiguous(), weights.reshape(row.shape)
        # what the four corners of each point would add to the sum's gradient, (N, K) each
        a, b, c, d = _row_products(grad, table, (row[:, None] + steps).flatten(1)).view(len(row), 4, -1).unbind(1)
        upper, lower = torch.lerp(a, b, right), torch.lerp(c, d, right)
        to_x, to_y = weight * torch.lerp(b - a, d - c, down), weight * (lower - upper)
        to_places = torch.stack([x.view_as(weights) for x in (to_x, to_y)], 2)
        to_weights = torch.lerp(upper, lower, down)
        corners = _corner_weights(weight, right, down, dim=2)
        to_table = _transposed_sums(grad, row, corners, weights.shape, ctx.shapes)
        return to_table, to_places, to_weights.view_as(weights), None


def _levels(shapes: Shapes) -> list[tuple[int, int, int]]:
    """Of each level in the table, in cells: where it starts, where it ends, and how long a line is."""
    lines = [w + 2 * BORDER for _, w in shapes]
    ends = list(accumulate((h + 2 * BORDER) * line for (h, _), line in zip(shapes, lines, strict=True)))
    return list(zip([0, *ends], ends, lines, strict=False))


def _steps(shapes: Shapes, heads: int, points: int) -> Tensor:
    """(4, K): rows from a point's upper left corner to each of its corners."""
    lines = torch.tensor([line for _, _, line in _levels(shapes)], dtype=torch.int32).repeat_interleave(points)
    return torch.stack((0 * lines, 0 * lines + 1, lines, lines + 1)) * heads


def _upper_left(places: Tensor, shapes: Shapes) -> tuple[Tensor, Tensor, Tensor]:
    """(B, S, 2, M, L, P) to three (N, K): row of each point's upper left corner, and how far right and down of it."""
    B, _, _, M, L, P = places.shape
    levels = _levels(shapes)
    lines = torch.tensor([line for _, _, line in levels], dtype=torch.int32)[:, None]
    origins = torch.tensor([start + BORDER * line + BORDER for start, _, line in levels], dtype=torch.int32)[:, None]
    images = torch.arange(B, dtype=torch.int32).view(-1, 1, 1, 1, 1) * levels[-1][1]
    heads = torch.arange(M, dtype=torch.int32)[:, None, None]
    border = places.new_tensor([-BORDER])
    beyond = places.new_tensor([[w for _, w in shapes], [h for h, _ in shapes]]).view(2, 1, L, 1)
    x, y = places.clamp(border, beyond).unbind(2)  # (B, S, M, L, P)
    left, top = x.floor(), y.floor()
    # a NaN must come out as a NaN, not as a row that is not there
    column, line = (corner.nan_to_num(-BORDER).int() for corner in (left, top))
    row = (line * lines + column + (images + origins)) * M + heads
    return row.view(-1, L * P), (x - left).view(-1, L * P), (y - top).view(-1, L * P)


def _corner_weights(weight: Tensor, right: Tensor, down: Tensor, dim: int) -> Tensor:
    """(N, K) each, stacked along `dim`: weights of the corners upper left, upper right, lower left, lower right."""
    lower = weight * down
    upper = weight - lower
    upper_right, lower_right = upper * right, lower * right
    return torch.stack((upper - upper_right, upper_right, lower - lower_right, lower_right), dim)


def _row_products(grad: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """(N, D), (B*T*M, D) and (N, R) row numbers to (N * R,): the products of each gradient with its rows."""
    ends = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=rows.dtype)
    shape = (len(grad), len(table))
    wanted = torch.sparse_csr_tensor(ends, rows.flatten(), grad.new_zeros(rows.numel()), shape, check_invariants=False)
    products: Tensor = torch.sparse.sampled_addmm(wanted, grad, table.t(), beta=0.0).values()
    return products


def _transposed_sums(grad: Tensor, row: Tensor, corners: Tensor, sizes: torch.Size, shapes: Shapes) -> Tensor:
    """(B*T*M, D): each row of the table collects from the sums that it went into.

    The corners of a point lie at fixed steps from its row, so one order of the points serves all four.

    Args:
        corners: (N, K, 4) weights.
        sizes: B, S, M, L, P.
    """
    B, M, levels = sizes[0], sizes[2], _levels(shapes)
    in_order, order = row.flatten().sort()
    counts = torch.bincount(in_order, minlength=B * M * levels[-1][1])
    ends = F.pad(counts.cumsum(0), (1, 0))
    source = order // row.shape[1]
    shares = corners.view(-1, 4).index_select(0, order).T.contiguous()
    collected = [
        F.embedding_bag(source, grad, ends, mode="sum", per_sample_weights=share, include_last_offset=True)
        for share in shares
    ]
    upper_left, *others = (x.view(B, -1, M * grad.shape[1]) for x in collected)
    for start, end, line in levels:
        for step, corner in zip((1, line, line + 1), others, strict=True):
            upper_left[:, start + step : end] += corner[:, start : end - step]
    return upper_left.view(-1, grad.shape[1])
