"""The loss of the object maps: where objects are centred, and how their pixels spread.

Shapes: B images, N instances of the batch, H W pixels of the padded images, h w = H/4 W/4 cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .query_selection import (
    EDGE,
    Blobs,
    ObjectMaps,
    cell_middles,
    coordinate_features,
    ellipse_coefficients,
    log_covariance,
)
from .structures import TargetBatch

SPREAD = 0.1
"""Covariance of a spot of the heat map, in units of the mask's."""
SHARPEST = 0.25
"""Added to it, in squared cells: a spot is not smaller than a cell."""
PIXEL = 1 / 12
"""Variance of a uniform density over a cell, in squared cells: what a mask of one pixel is not below."""
FOCUS, LENIENCE = 2, 4
"""alpha and beta of CornerNet's and CenterNet's focal loss."""


@torch.no_grad()
def moments(masks: Tensor, cells: tuple[int, int]) -> Blobs:
    """First and second moments of masks in cells of a map over the same image, whose centre is the origin.

    Args:
        masks: (N, H, W) of 0 and 1; an empty one is a dot in the middle.
        cells: h and w.
    """
    H, W = masks.shape[1:]
    table = coordinate_features(H, W, masks.device).flatten(1)  # (6, H * W)
    total, x, y, xx, yy, xy = (masks.flatten(1) @ table.T).unbind(1)
    total = total.clamp(min=1)
    x, y, xx, yy, xy = (value / total for value in (x, y, xx, yy, xy))
    v, u = cells[0] / H, cells[1] / W  # cells for each pixel
    least = PIXEL * u * v
    covariance = (xx - x * x).clamp(min=0) * u * u, (yy - y * y).clamp(min=0) * v * v, (xy - x * y) * u * v
    return Blobs(
        torch.stack((x * u, y * v), -1),
        log_covariance(covariance[0] + least, covariance[1] + least, covariance[2]),
    )


def object_losses(maps: ObjectMaps, batch: TargetBatch, num_masks: Tensor) -> tuple[Tensor, Tensor]:
    """(1,) each: the heat map's focal loss, and the L1 distance of centre and shape; sums over instances / `num_masks`.

    Args:
        maps: predicted for the batch.
        batch: its instances.
        num_masks: instances of the global batch.
    """
    h, w = maps.heat.shape[-2:]
    truth = moments(batch.masks, (h, w))
    heat, seeds = _spots(truth, batch, maps.heat)
    number = num_masks.clamp(min=1)
    losses = focal_loss(maps.heat, heat), _blob_loss(maps, truth, batch.images, seeds)
    return losses[0].view(1) / number, losses[1].view(1) / number


def focal_loss(logits: Tensor, heat: Tensor) -> Tensor:
    """CenterNet's equation 1, summed: cells of heat 1 are centres, the others count the less the closer they are."""
    probability = logits.sigmoid()
    centre = (1 - probability).pow(FOCUS) * F.logsigmoid(logits)
    other = (1 - heat).pow(LENIENCE) * probability.pow(FOCUS) * F.logsigmoid(-logits)
    return -torch.where(heat == 1, centre, other).sum()


@torch.no_grad()
def _spots(truth: Blobs, batch: TargetBatch, like: Tensor) -> tuple[Tensor, Tensor]:
    """(B, h, w) with a Gaussian at every centre, 1 at its cell, and (N,) the number of that cell."""
    h, w = like.shape[-2:]
    x, y = truth.centre.unbind(-1)
    seeds = (y + h / 2).long().clamp(0, h - 1) * w + (x + w / 2).long().clamp(0, w - 1)
    spots = gaussians(Blobs(truth.centre, _spot_of(truth.shape)), h, w).clamp_(max=1 - 1e-4)  # (N, h * w)
    heat = like.new_zeros(like.shape[0], h * w)
    heat.scatter_reduce_(0, batch.images[:, None].expand_as(spots), spots, "amax")
    heat[batch.images, seeds] = 1
    return heat.view(like.shape), seeds


def gaussians(blobs: Blobs, height: int, width: int) -> Tensor:
    """(N, h * w): exp(-d^2 / 2) of every cell, d its Mahalanobis distance from each of N blobs."""
    half = blobs.shape.new_full((1, 1), EDGE / 2)
    exponent = ellipse_coefficients(blobs, half) @ coordinate_features(height, width, half.device).flatten(1)
    return exponent.sub_(half).exp_()


def _spot_of(shape: Tensor) -> Tensor:
    """(N, 3) as in `Blobs`: the covariance times SPREAD, plus SHARPEST along both axes."""
    m, p, q = shape.unbind(-1)
    r = (p.square() + q.square()).sqrt()
    long, short = (SPREAD * torch.stack((m + r, m - r)).exp() + SHARPEST).log()
    scale = (long - short) / (2 * r).clamp(min=1e-6)
    return torch.stack(((long + short) / 2, p * scale, q * scale), -1)


def _blob_loss(maps: ObjectMaps, truth: Blobs, images: Tensor, seeds: Tensor) -> Tensor:
    """L1 of the blob that each centre's cell and its neighbours predict, mean over the cells."""
    h, w = maps.heat.shape[-2:]
    step = torch.arange(-1, 2, device=seeds.device)
    row = (seeds.div(w, rounding_mode="floor")[:, None, None] + step[:, None]).clamp(0, h - 1)
    column = (seeds[:, None, None] % w + step).clamp(0, w - 1)
    cells = (row * w + column).flatten(1)  # (N, 9)
    centre = maps.centre.flatten(2)[images[:, None], :, cells] + cell_middles(h, w, seeds.device)[cells]
    shape = maps.shape.flatten(2)[images[:, None], :, cells]
    # in units of the object's own size: a pixel matters to a small one
    size = (truth.shape[:, :1] / 2).exp().clamp(min=1)
    off = (centre - truth.centre[:, None]).abs().sum(-1) / size + (shape - truth.shape[:, None]).abs().sum(-1)
    return off.mean(1).sum()
