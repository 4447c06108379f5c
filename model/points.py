"""Points on masks: where the matching and the mask losses look (section 3.3; PointRend).

Shapes: N masks, P points; a point is (x, y) in [0, 1] of the padded image.
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


def sample_points(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps bilinearly; outside of the map is zero.

    Args:
        maps: (N, C, H, W).
        points: (N, P, 2).

    Returns:
        (N, C, P)
    """
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False).squeeze(3)


def pick_uncertain(logits: Tensor, candidates: Tensor, count: int) -> Tensor:
    """The `count` candidates of each mask where its logit is nearest to zero.

    Args:
        logits: (N, H, W).
        candidates: (N, P', 2).

    Returns:
        (N, count, 2)
    """
    values = sample_points(logits[:, None], candidates).squeeze(1)
    nearest = values.abs().topk(count, dim=1, largest=False, sorted=False).indices
    return candidates.gather(1, nearest[..., None].expand(-1, -1, 2))
