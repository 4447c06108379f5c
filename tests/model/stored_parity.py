"""Two small networks whose weights and inputs are functions of names: for `stored/make_stored.py` and its test.

Everything random comes from numpy's RandomState, whose streams never change; torch's may, from version to version.
Shapes: L supervised outputs, B images, Q queries, N instances of an image, P points.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raytune_m2f.model import (
    LossWeights,
    MultiTaskMaskFormer,
    RandomPoints,
    ResNet,
    SetCriterion,
    SwinTransformer,
    Target,
    build_model,
    pad_masks,
    padded_size,
)
from raytune_m2f.model.backbones import Backbone

FOLDER = Path(__file__).parent / "stored"
SIZES = ((64, 96), (50, 120))
"""Height and width of the images; the batch is 64 x 128, at 1/16 within one of Swin's windows along one side only."""
ORIGINALS = ((90, 130), (75, 180))
CLASSES, QUERIES, HEADS, LAYERS = 5, 8, 4, 3
POINTS, OVERSAMPLE, IMPORTANCE = 64, 3.0, 0.75
MAX_INSTANCES = 12
PROJECTIONS = 3


@dataclass(frozen=True)
class Case:
    """One network.

    Attributes:
        conv_dim: channels of the pixel decoder; other than `hidden_dim` it makes the decoder project its maps.
        counts: instances of each image; more than QUERIES leaves some without a query.
        draw: which images; of those tried, these keep away from zeros of a ReLU, where rounding makes gradients jump.
    """

    name: str
    backbone: str
    conv_dim: int
    encoder_layers: int
    counts: tuple[int, ...]
    draw: str = ""
    hidden_dim: int = 32
    mask_dim: int = 32
    dim_feedforward: int = 64


CASES = (
    Case("resnet18", "R18", conv_dim=64, encoder_layers=2, counts=(4, 2), draw=" 5"),
    Case("swin", "swin", conv_dim=32, encoder_layers=1, counts=(10, 3)),
)
SWIN_WIDTH, SWIN_DEPTHS, SWIN_HEADS, SWIN_WINDOW = 32, (2, 2, 2, 2), (1, 2, 4, 8), 7


def build_case(case: Case) -> MultiTaskMaskFormer:
    """Ours, with its weights, in evaluation mode (Swin drops paths in training)."""
    network = build_model(
        backbone=_backbone(case),
        num_classes=CLASSES,
        subcategories={},
        conv_dim=case.conv_dim,
        mask_dim=case.mask_dim,
        encoder_layers=case.encoder_layers,
        num_queries=QUERIES,
        hidden_dim=case.hidden_dim,
        num_heads=HEADS,
        dim_feedforward=case.dim_feedforward,
        decoder_layers=LAYERS,
    )
    network.load_state_dict(weights_of(network.state_dict()))
    return network.eval()


def _backbone(case: Case) -> Backbone:
    if case.backbone == "R18":
        return ResNet(18, "FrozenBN")
    return SwinTransformer(
        embed_dim=SWIN_WIDTH,
        depths=SWIN_DEPTHS,
        num_heads=SWIN_HEADS,
        window_size=SWIN_WINDOW,
        drop_path_rate=0.0,
    )


def build_loss() -> SetCriterion:
    return SetCriterion(
        LossWeights(), num_points=POINTS, oversample_ratio=OVERSAMPLE, importance_sample_ratio=IMPORTANCE
    )


def uniform(name: str, *shape: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on the name and the shape alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)


def weights_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same state dict with our numbers; what is not a floating-point number (Swin's index) stays."""
    return {name: _weight(name, old) if old.is_floating_point() else old for name, old in state.items()}


def _weight(name: str, old: Tensor) -> Tensor:
    """Mean 0 and variance 1 / fan-in for matrices, so that activations stay near 1; norms near their identity."""
    spread = (2 * uniform(name, *old.shape) - 1) * np.sqrt(3)  # variance 1
    if name.endswith("running_var") or (old.dim() == 1 and name.endswith("weight")):
        value = 1 + 0.2 * spread
    elif name.endswith("sampling_offsets.bias"):
        value = 2 * spread  # cells
    elif old.dim() == 1:
        value = 0.2 * spread
    elif any(part in name for part in ("query_", "level_embed", "relative_position")):
        value = spread
    else:
        value = spread * np.sqrt((2 if "backbone" in name else 1) / old[0].numel())
    return torch.from_numpy(value).to(old.dtype)


def images_of(case: Case) -> list[Tensor]:
    """Noise of 8 x 8 pixels, (3, h, w) uint8, so that neighbouring cells differ and are alike."""
    images = []
    for b, (height, width) in enumerate(SIZES):
        blocks = uniform(f"{case.name} image {b}{case.draw}", 3, -(-height // 8), -(-width // 8))
        pixels = (256 * blocks).astype(np.uint8).repeat(8, 1).repeat(8, 2)
        images.append(torch.from_numpy(pixels[:, :height, :width].copy()))
    return images


def truth_of(case: Case) -> Iterator[tuple[Tensor, Tensor]]:
    """Of each image (N,) labels and (N, h, w) rectangles, at the image's size."""
    for b, ((height, width), count) in enumerate(zip(SIZES, case.counts, strict=True)):
        labels = (CLASSES * uniform(f"{case.name} labels {b}", count)).astype(np.int64)
        masks = np.zeros((count, height, width), bool)
        for mask, (y, x, h, w) in zip(masks, uniform(f"{case.name} boxes {b}", count, 4), strict=True):
            top, left = int(0.6 * y * height), int(0.6 * x * width)
            mask[top : top + 8 + int(0.3 * h * height), left : left + 8 + int(0.3 * w * width)] = True
        yield torch.from_numpy(labels), torch.from_numpy(masks)


def targets_of(case: Case) -> list[Target]:
    size = padded_size(images_of(case), 32)
    return [Target(labels, pad_masks(masks, size)) for labels, masks in truth_of(case)]


def matching_points(image: int) -> Tensor:
    """(L, P, 2): where the matching looks in each output."""
    return torch.from_numpy(uniform(f"matching points {image}", LAYERS + 1, POINTS, 2)).float()


def loss_points(image: int) -> Tensor:
    """(L, Q, 3 P + P / 4, 2): candidates and further points of each pair, by its place in the order of instances."""
    count = int(OVERSAMPLE * POINTS) + POINTS - int(IMPORTANCE * POINTS)
    return torch.from_numpy(uniform(f"loss points {image}", LAYERS + 1, QUERIES, count, 2)).float()


class StoredPoints(RandomPoints):
    """The points above, layer by layer however many layers are drawn at once."""

    def __init__(self) -> None:
        super().__init__([], torch.device("cpu"))
        self.drawn: Counter[int] = Counter()

    def draw(self, image: int, *shape: int) -> Tensor:
        if len(shape) == 2:
            assert shape == (LAYERS + 1, POINTS)
            return matching_points(image)
        layers, pairs, count = shape
        first = self.drawn[image]
        self.drawn[image] += layers
        points = loss_points(image)[first : first + layers, :pairs]
        assert points.shape[2] == count
        return points


def named_gradients(network: MultiTaskMaskFormer) -> dict[str, Tensor]:
    """Gradients under the names of the state dict, which are the reference's."""
    gradients = {}
    for name, parameter in network.named_parameters():
        stem, _, rest = name.partition(".")
        assert parameter.grad is not None, name
        gradients[f"backbone.{network.backbone.stored_name(rest)}" if stem == "backbone" else name] = parameter.grad
    return gradients


def summary_of(gradients: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Of each gradient its norm, and its product with PROJECTIONS fixed vectors of entries in [-1, 1)."""
    names = sorted(gradients)
    flat = {name: gradients[name].flatten().double().numpy() for name in names}
    projected = [[_project(f"{name} {i}", flat[name]) for i in range(PROJECTIONS)] for name in names]
    return {
        "gradient_names": np.array("\n".join(names)),
        "gradient_norms": np.array([np.linalg.norm(flat[name]) for name in names]),
        "gradient_projections": np.array(projected),
    }


def _project(name: str, vector: NDArray[np.float64]) -> float:
    return float((2 * uniform(name, vector.size) - 1) @ vector)


def instances_as_arrays(image: int, scores: Tensor, labels: Tensor, masks: Tensor) -> dict[str, NDArray[Any]]:
    """Best first, masks as bits."""
    order = scores.argsort(descending=True, stable=True)
    return {
        f"scores_{image}": scores[order].numpy(),
        f"labels_{image}": labels[order].numpy().astype(np.int8),
        f"masks_{image}": np.packbits(masks[order].bool().numpy()),
    }


def load(case: Case) -> dict[str, NDArray[Any]]:
    with np.load(FOLDER / f"{case.name}.npz") as arrays:
        return dict(arrays)
