"""Points on masks: where the matching and the mask losses look (section 3.3; PointRend).

Shapes: B images, L supervised outputs, Q queries, N masks, P points, D channels, h w cells of the mask features;
a point is (x, y) in [0, 1] of the padded image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


class RandomPoints:
    """Uniform points, drawn from a stream of its own for every image.

    What is drawn for an image depends on its seed alone, not on the images beside it: however a batch is
    split over workers and accumulation steps, the loss sees the same points.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        self.device = device
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(self, image: int, *shape: int) -> Tensor:
        """(*shape, 2) points for image number `image` of the batch."""
        return torch.rand(*shape, 2, generator=self.generators[image], device=self.device)


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Read each map at its points, bilinearly; outside of the map is zero. (N, H, W) and (N, P, 2) to (N, P)."""
    grid = (2 * points).sub_(1)  # in [-1, 1] from edge to edge
    return F.grid_sample(maps[:, None], grid[:, None], align_corners=False).view(points.shape[:2])


class MaskFeatures:
    """The mask features as a table of cells, to read the masks of many queries at many points.

    A mask's logit at a point is the product of its embedding with the features there. Sums of table rows read all
    channels of a cell at once: on a CPU that is several times faster than `grid_sample`.

    Args:
        features: (B, D, h, w) float32.
    """

    def __init__(self, features: Tensor):
        self.height, self.width = features.shape[2:]
        bordered = F.pad(features.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))  # zeros around: outside counts as zero
        self.cells = bordered.flatten(1, 2)  # (B, (h + 2) * (w + 2), D)

    def logits_at(self, mask_embed: Tensor, points: Tensor) -> Tensor:
        """(B, L, Q, D) and (B, L, P, 2) to (B * L, P, Q): the mask logits of each output at that output's points."""
        rows, weights = self._corners(points)
        B, L, Q, D = mask_embed.shape
        cells, image = self.cells.shape[1], torch.arange(B, device=rows.device).view(B, 1, 1, 1)
        rows += image * cells
        if points.shape[2] < cells:
            seen = _sum_rows(self.cells.view(-1, D), rows, weights)  # (B * L, P, D)
            return seen.bmm(mask_embed.flatten(0, 1).mT)
        # fewer cells than points: first the products, then the points
        logits = self.cells.bmm(mask_embed.flatten(1, 2).mT)  # (B, cells, L * Q)
        layer = torch.arange(L, device=rows.device).view(L, 1, 1)
        return _sum_rows(logits.view(-1, Q), rows * L + layer, weights)

    def _corners(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """(..., 2) to (..., 4) each: the rows of the four cells around a point, and their bilinear weights.

        Numbers, not tensors of them: to copy one to a GPU makes the host wait.
        """
        line = self.width + 2
        x, y = points.unbind(-1)
        x, y = x * self.width + 0.5, y * self.height + 0.5  # in cells of the table
        left, top = x.floor(), y.floor()
        right, down = x - left, y - top
        row = torch.add(left, top, alpha=line).long()
        lower_right = right * down
        lower_left, upper_right = down - lower_right, right - lower_right
        weights = torch.stack((1 - right - lower_left, upper_right, lower_left, lower_right), -1)
        return torch.stack((row, row + 1, row + line, row + line + 1), -1), weights


def _sum_rows(table: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """(T, C), (B, L, P, 4) and (B, L, P, 4) to (B * L, P, C): weighted sums of rows of the table."""
    bags = F.embedding_bag(rows.view(-1, 4), table, mode="sum", per_sample_weights=weights.view(-1, 4))
    return bags.view(-1, rows.shape[2], table.shape[1])


def pick_uncertain(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The `count` candidates of each mask where its logit is nearest to zero.

    Args:
        logits: (N, H, W).
        candidates: (N, P', 2).

    Returns:
        (N, count, 2)
    """
    values = sample_maps(logits, candidates).abs_()
    nearest = values.topk(count, dim=1, largest=False, sorted=False).indices
    return candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
