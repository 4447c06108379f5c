"""The loss of the object maps: where objects are centred, and how their pixels spread.

Shapes: B images, N instances of the batch, H W pixels of the padded images, h w = H/4 W/4 cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .query_selection import Blobs, ObjectMaps, cell_middles, coordinate_features, log_covariance
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
    """The heat map's focal loss, and the L1 distance of centre and shape, summed over instances / `num_masks`.

    Args:
        maps: predicted for the batch.
        batch: its instances.
        num_masks: instances of the global batch.
    """
    h, w = maps.heat.shape[-2:]
    truth = moments(batch.masks, (h, w))
    heat, seeds = _spots(truth, batch, maps.heat)
    number = num_masks.clamp(min=1)
    return focal_loss(maps.heat, heat) / number, _blob_loss(maps, truth, batch.images, seeds) / number


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
    middles = cell_middles(h, w, like.device)
    x, y = truth.centre.unbind(-1)
    seeds = (y + h / 2).long().clamp(0, h - 1) * w + (x + w / 2).long().clamp(0, w - 1)
    heat = like.new_zeros(like.shape[0], h * w)
    xx, yy, xy = _covariance(truth.shape)
    xx, yy, xy = SPREAD * xx + SHARPEST, SPREAD * yy + SHARPEST, SPREAD * xy
    determinant = xx * yy - xy * xy
    for image, part in enumerate(torch.arange(len(x), device=like.device).split(batch.sizes)):
        if len(part):
            dx, dy = (middles - truth.centre[part, None]).unbind(-1)  # (n, h * w)
            a, b, c, d = (value[part, None] for value in (xx, yy, xy, determinant))
            spots = ((b * dx * dx - 2 * c * dx * dy + a * dy * dy) / (-2 * d)).exp_()
            heat[image] = spots.amax(0).clamp(max=1 - 1e-4)
    heat[batch.images, seeds] = 1
    return heat.view(like.shape), seeds


def _covariance(shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 3) as in `Blobs` to the covariance: xx, yy and xy."""
    m, p, q = shape.unbind(-1)
    r = (p.square() + q.square() + 1e-8).sqrt()
    scale, ratio = m.exp(), r.sinh() / r
    return scale * (r.cosh() + p * ratio), scale * (r.cosh() - p * ratio), scale * q * ratio


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
