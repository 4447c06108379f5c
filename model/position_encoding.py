"""Sine position encoding of a feature map (Mask2Former section 3.2.2, after DETR appendix A.4).

Shapes: C channels (half for y, half for x), H W cells.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0
EPSILON = 1e-6


def sine_position_encoding(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Encode each cell's place as sines and cosines of its normalised y and x.

    Args:
        height, width: cells of the map.
        channels: C, divisible by 4.
        device: where the encoding is wanted.

    Returns:
        (C, H, W) float32; the first C/2 channels encode y, the others x.
    """
    features = channels // 2
    index = torch.arange(features, dtype=torch.float32, device=device)
    period = TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / features)
    y = _encode_axis(height, period)[:, None, :].expand(height, width, features)
    x = _encode_axis(width, period)[None, :, :].expand(height, width, features)
    return torch.cat((y, x), dim=-1).permute(2, 0, 1)


def _encode_axis(length: int, period: Tensor) -> Tensor:
    """Positions 1..length, scaled to (0, 2 pi], as (length, features) interleaved sines and cosines."""
    position = torch.arange(1, length + 1, dtype=torch.float32, device=period.device)
    angle = (position / (length + EPSILON) * 2 * math.pi)[:, None] / period
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=-1).flatten(1)
