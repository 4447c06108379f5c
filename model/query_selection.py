"""Located queries: each stands at a peak of a heat map, and its mask begins as a blob there, of the object's size.

Learnable queries have to find out where objects are from a code that has one period an image, and the product of mask
embedding and mask features knows no place at all: it can hardly tell look-alikes apart. Here a map over the mask
features says where objects are centred (CenterNet: "Objects as Points", Zhou et al. 2019, equation 1) and how their
pixels spread; its peaks become the queries (query selection: Deformable DETR, Zhu et al. 2021, section 4.2, two-stage;
DINO, Zhang et al. 2023, section 3.4). What is known of an object's place enters its mask as coordinates do in
CondInst and SOLOv2, relative to the object as in the former; the form is SMCA's (Gao et al. 2021, equation 4): a
Gaussian of predicted centre and scale, here with an orientation.

The logarithm of a Gaussian is a polynomial of second degree in x and y, so it is one more product: six channels of
mask features, `coordinate_features`, and six numbers for each query, `ellipse_coefficients`. Nothing that makes masks
of products has to know.

Shapes: B images, Q queries, C channels (HIDDEN_DIM), D mask channels, h w cells of the mask features.
Lengths are in cells of the mask features (4 pixels); x y count from the centre of the map.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Conv2d, ConvNorm, Linear, encode_places

WIDTH = 64
"""Channels inside the head that makes the maps."""
COEFFICIENTS = 6
"""Of a polynomial of second degree in x and y."""
RARE = 0.01
"""Share of the cells that are centres, as the heat map starts (RetinaNet, Lin et al. 2017, section 4.1)."""
FIRST_SIZE = 8.0
"""Standard deviation of an object's pixels as the map starts: rather too large, which does no harm to a mask."""
STRENGTH = 2.0
"""The logit of a mask in the middle of its blob, as it starts."""
EDGE = 4.0
"""Squared Mahalanobis distance of a solid ellipse's edge from its centre: the radii are two standard deviations."""
CANDIDATES = 2
"""Peaks that are looked at for each query."""
ALIKE = 0.5
"""Two blobs of a smaller Bhattacharyya distance are one: of equal size, where each has its centre inside the other."""
ROUNDS = 4
"""Of suppression: a chain in which each repeats the one before is right so far."""
SMALLEST, LARGEST, THINNEST = math.log(0.05), math.log(1e5), 4.0
"""Bounds of the logarithms in `Blobs.shape`, far outside of what occurs: exp stays finite."""


@dataclass(frozen=True)
class Blobs:
    """Ellipses: the first and second moments of masks.

    Attributes:
        centre: (..., 2), x and y.
        shape: (..., 3), (m, p, q) of the symmetric matrix [[m + p, q], [q, m - p]], the logarithm of the covariance of
            a mask's pixels: m is the size, p and q the elongation along the axes and along the diagonals. Any three
            numbers are a covariance (Arsigny et al. 2006, log-Euclidean metrics).
    """

    centre: Tensor
    shape: Tensor

    def chosen(self, index: Tensor) -> Blobs:
        """Of (B, K) blobs those of these numbers, (B, Q)."""
        return Blobs(*(x.gather(1, index[..., None].expand(-1, -1, x.shape[2])) for x in (self.centre, self.shape)))

    def detach(self) -> Blobs:
        """The same without their history."""
        return Blobs(self.centre.detach(), self.shape.detach())


@dataclass(frozen=True)
class ObjectMaps:
    """What each cell says of an object centred there.

    Attributes:
        heat: (B, h, w), logit that there is one.
        centre: (B, 2, h, w), from the middle of the cell to the centre, x and y.
        shape: (B, 3, h, w), as in `Blobs`.
    """

    heat: Tensor
    centre: Tensor
    shape: Tensor


@dataclass(frozen=True)
class Selected:
    """Queries of a batch.

    Attributes:
        content, position: (B, Q, C).
        blobs: where each is, (B, Q).
        distinct: (B, Q) bool, False for those that only repeat a better one; the others come first.
        maps: what they were chosen from.
    """

    content: Tensor
    position: Tensor
    blobs: Blobs
    distinct: Tensor
    maps: ObjectMaps


class QuerySelection(nn.Module):
    """Chooses the Q best peaks of a heat map as queries.

    Content is made of the cell's features, as in two-stage Deformable DETR; position is the sine code of the centre.
    A large object has many peaks, which all say the same blob: only the best of those is a query that counts, so an
    image has as many as it has distinct blobs, and Q is their limit.

    Args:
        mask_dim: D.
        in_channels: of the pixel decoder's finest map.
        hidden_dim: C.
        num_queries: Q.
    """

    def __init__(self, *, mask_dim: int, in_channels: int, hidden_dim: int, num_queries: int):
        super().__init__()
        self.num_queries = num_queries
        self.project = Conv2d(mask_dim, WIDTH, 1) if mask_dim > WIDTH else nn.Identity()  # wide ones cost too much
        self.stem = ConvNorm(min(mask_dim, WIDTH), WIDTH, 3, norm=True, relu=True)
        self.maps = Conv2d(WIDTH, 6, 1)
        nn.init.normal_(self.maps.weight, std=0.01)
        first = [math.log(RARE / (1 - RARE)), 0.0, 0.0, 2 * math.log(FIRST_SIZE), 0.0, 0.0]
        self.maps.bias = nn.Parameter(torch.tensor(first))
        self.from_mask_features = Linear(mask_dim, hidden_dim)
        self.from_memory = Linear(in_channels, hidden_dim)
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, memory: Tensor, mask_features: Tensor) -> Selected:
        """Choose, in float32 whatever autocast says: neighbouring cells must not tie.

        Args:
            memory: (B, in_channels, h', w'), the finest map of the pixel decoder.
            mask_features: (B, D, h, w).
        """
        with torch.autocast(mask_features.device.type, enabled=False):
            heat, centre, shape = self.maps(self.stem(self.project(mask_features.float()))).split((1, 2, 3), 1)
            maps = ObjectMaps(heat[:, 0], centre, shape)
            cells = peaks(maps.heat.detach(), CANDIDATES * self.num_queries)
            blobs = self._blobs_at(maps, cells).detach()
            repeated = repetitions(blobs)
            # (B, Q): those that repeat none first, each in its order; unlike a stable sort this is in ONNX, too
            rank = torch.arange(repeated.shape[1], device=repeated.device) + repeated.shape[1] * repeated
            order = rank.argsort(dim=1)[:, : self.num_queries]
            repeated, cells, blobs = repeated.gather(1, order), cells.gather(1, order), blobs.chosen(order)
            content = self.from_mask_features(gather_cells(mask_features.float(), cells))
            coarse = _coarser(cells, mask_features.shape[-2:], memory.shape[-2:])
            content = self.norm(content + self.from_memory(gather_cells(memory.float(), coarse)))
            position = encode_places(*self._relative(blobs.centre, mask_features), content.shape[-1])
            return Selected(content, position, blobs, ~repeated, maps)

    @staticmethod
    def _relative(centre: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """x and y in [0, 1] of the map."""
        x, y = centre.unbind(-1)
        return x / mask_features.shape[-1] + 0.5, y / mask_features.shape[-2] + 0.5

    def _blobs_at(self, maps: ObjectMaps, cells: Tensor) -> Blobs:
        height, width = maps.heat.shape[-2:]
        middle = cell_middles(height, width, cells.device)[cells]  # (B, Q, 2)
        return Blobs(middle + gather_cells(maps.centre, cells), gather_cells(maps.shape, cells))


class MaskPrior(nn.Module):
    """What a query knows of its object's place: its blob, which every layer may move, stretch, weaken or strengthen.

    Args:
        hidden_dim: C.
    """

    def __init__(self, hidden_dim: int):
        super().__init__()
        self.refine = nn.Linear(hidden_dim, COEFFICIENTS)
        nn.init.zeros_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)

    def forward(self, decoded: Tensor, blobs: Blobs) -> Tensor:
        """(B, Q, C) and (B, Q) to the coefficients (B, Q, 6) that go with `coordinate_features`, in float32."""
        with torch.autocast(decoded.device.type, enabled=False):
            move, shape, strength = self.refine(decoded.float()).split((2, 3, 1), -1)
            size = (blobs.shape[..., :1].clamp(SMALLEST, LARGEST) / 2).exp()
            refined = Blobs(blobs.centre + move * size, blobs.shape + shape)
            return ellipse_coefficients(refined, STRENGTH * strength.clamp(-4, 4).exp())


def ellipse_coefficients(blobs: Blobs, strength: Tensor) -> Tensor:
    """The polynomial strength * (1 - d^2 / 4) with d the Mahalanobis distance from a blob: zero on the ellipse's edge.

    With the covariance exp [[m + p, q], [q, m - p]] and r^2 = p^2 + q^2,
    d^2 = exp(-m) ((cosh r - p sinh r / r) x^2 - 2 q sinh r / r x y + (cosh r + p sinh r / r) y^2).

    Args:
        blobs: (..., 2) and (..., 3).
        strength: (..., 1).

    Returns:
        (..., 6), the coefficients of 1, x, y, x^2, y^2 and x y.
    """
    xx, yy, xy = precision(blobs.shape)
    x, y = blobs.centre.unbind(-1)
    along_x, along_y = xx * x + xy * y, yy * y + xy * x
    inside = torch.stack((EDGE - (along_x * x + along_y * y), 2 * along_x, 2 * along_y, -xx, -yy, -2 * xy), -1)
    return strength / EDGE * inside


def precision(shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 3) as in `Blobs` to the inverse covariance [[xx, xy], [xy, yy]]: xx, yy and xy, (...) each."""
    return _exponential(-_bounded(shape))


def covariance(shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(..., 3) as in `Blobs` to the covariance [[xx, xy], [xy, yy]]: xx, yy and xy, (...) each."""
    return _exponential(_bounded(shape))


def _bounded(shape: Tensor) -> Tensor:
    m, elongation = shape.split((1, 2), -1)
    return torch.cat((m.clamp(SMALLEST, LARGEST), elongation.clamp(-THINNEST, THINNEST)), -1)


def _exponential(shape: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the matrix [[m + p, q], [q, m - p]]."""
    m, p, q = shape.unbind(-1)
    r = (p.square() + q.square() + 1e-8).sqrt()  # never 0: its root has no slope there
    scale, ratio = m.exp(), r.sinh() / r
    return scale * (r.cosh() + p * ratio), scale * (r.cosh() - p * ratio), scale * q * ratio


@torch.no_grad()
def repetitions(blobs: Blobs) -> Tensor:
    """Which of (B, K) blobs, best first, repeat a better one that counts: (B, K) bool.

    The measure is ProbIoU's (Llerena et al. 2021, equations 3 to 5), the suppression Cluster-NMS (Zheng et al. 2020,
    algorithm 2): non-maximum suppression without a loop over the blobs.
    """
    near = bhattacharyya(blobs) < ALIKE
    near &= torch.ones_like(near[0]).tril(-1)  # [i, j]: j is better than i
    repeated = torch.zeros_like(near[..., 0])
    for _ in range(ROUNDS):
        repeated = (near & ~repeated[:, None]).any(-1)
    return repeated


def bhattacharyya(blobs: Blobs) -> Tensor:
    """(B, K) blobs to (B, K, K), the distance of each two as Gaussians."""
    xx, yy, xy = ((x[:, :, None] + x[:, None]) / 2 for x in covariance(blobs.shape))
    x, y = (blobs.centre[:, :, None] - blobs.centre[:, None]).unbind(-1)
    determinant = xx * yy - xy * xy
    m = _bounded(blobs.shape)[..., 0]
    apart = (yy * x * x - 2 * xy * x * y + xx * y * y) / determinant
    return apart / 8 + (determinant.log() - m[:, :, None] - m[:, None]) / 2


def log_covariance(xx: Tensor, yy: Tensor, xy: Tensor) -> Tensor:
    """The covariance [[xx, xy], [xy, yy]] of positive determinant to (..., 3) as in `Blobs`.

    Its eigenvalues are t +- s; the logarithm has m = (log(t + s) + log(t - s)) / 2, and (p, q) along
    ((xx - yy) / 2, xy), of length (log(t + s) - log(t - s)) / 2.
    """
    t, u = (xx + yy) / 2, (xx - yy) / 2
    s = (u.square() + xy.square()).sqrt()
    determinant = xx * yy - xy.square()
    ratio = torch.where(s > 1e-6 * t, torch.atanh((s / t).clamp(max=1 - 1e-6)) / s.clamp(min=1e-12), 1 / t)
    return torch.stack((determinant.log() / 2, u * ratio, xy * ratio), -1)


def coordinate_features(height: int, width: int, device: torch.device) -> Tensor:
    """(6, h, w): 1, x, y, x^2, y^2 and x y of each cell's middle."""
    x, y = cell_middles(height, width, device).unbind(-1)
    return torch.stack((torch.ones_like(x), x, y, x.square(), y.square(), x * y)).view(COEFFICIENTS, height, width)


def cell_middles(height: int, width: int, device: torch.device) -> Tensor:
    """(h * w, 2): x and y of every cell's middle, row by row, from the centre of the map."""
    y = torch.arange(height, dtype=torch.float32, device=device) - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float32, device=device) - (width - 1) / 2
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1).flatten(0, 1)


def peaks(heat: Tensor, count: int) -> Tensor:
    """The best cells that no neighbour exceeds, then the best of the others.

    Args:
        heat: (B, h, w) logits.

    Returns:
        (B, count) int64, numbers of cells; where a map has fewer, they repeat.
    """
    highest = F.max_pool2d(heat[:, None], 3, stride=1, padding=1)[:, 0]
    below = heat.max() - heat.min() + 1  # more than any two differ
    ranked = torch.where(heat == highest, heat, heat - below).flatten(1)
    cells = ranked.topk(min(count, ranked.shape[1]), dim=1).indices
    return cells.repeat(1, -(-count // cells.shape[1]))[:, :count]


def gather_cells(maps: Tensor, cells: Tensor) -> Tensor:
    """(B, K, h, w) and (B, Q) numbers of cells to (B, Q, K)."""
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def _coarser(cells: Tensor, fine: torch.Size, coarse: torch.Size) -> Tensor:
    """The cell of a coarser map that holds each cell of a finer one."""
    row, column = cells.div(fine[1], rounding_mode="floor"), cells % fine[1]
    row = row.mul(coarse[0]).div(fine[0], rounding_mode="floor")
    column = column.mul(coarse[1]).div(fine[1], rounding_mode="floor")
    return row * coarse[1] + column
