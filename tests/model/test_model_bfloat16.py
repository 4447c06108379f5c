"""Autocast: what runs in bfloat16, and how far that may move a prediction on any processor.

bfloat16 decides a few cells of the attention masks differently, those on the edge of a mask (about one in a hundred, as
in Mask2Former, which compares logits that are rounded once more). A query that had one cell and loses it attends
everywhere, so free-running predictions may differ by any amount. What is bounded is the rounding itself: the network is
compared with the float32 masks given to it, and the masks by how close to the edge a cell is that moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from raytune_m2f.model import (
    LossWeights,
    MultiTaskMaskFormer,
    Outputs,
    RandomPoints,
    SetCriterion,
    Target,
    query_selection,
)
from raytune_m2f.model import transformer_decoder as decoder

EPSILON = torch.finfo(torch.bfloat16).eps
SEEDS = range(5)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@dataclass
class Masks:
    """Stands for `attention_mask`: notes what it decides; if `given` is there the network gets that instead.

    Attributes:
        given: (B, Q, S) of each layer.
        allowed: (B, Q, S) of each layer, as decided.
        closeness: (B, Q, S) of each layer, |logit| over the lengths of its two vectors: how far from the edge.
    """

    given: list[Tensor] | None = None
    allowed: list[Tensor] = field(default_factory=list)
    closeness: list[Tensor] = field(default_factory=list)

    def __call__(self, mask_embed: Tensor, features: Tensor, *, exact: bool = False) -> Tensor:
        layer = len(self.allowed)
        self.allowed.append(DECIDE(mask_embed, features, exact=exact))
        embed, features = mask_embed.float(), features.float()
        with torch.autocast(embed.device.type, enabled=False):
            lengths = embed.norm(dim=2, keepdim=True) * features.norm(dim=1, keepdim=True)
            self.closeness.append((embed @ features).abs() / lengths)
        return self.allowed[-1] if self.given is None else self.given[layer]


DECIDE = decoder.attention_mask
PEAKS, REPEATED = query_selection.peaks, query_selection.repetitions
Pair = tuple[Outputs, Outputs, Masks, Masks, int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, make_network: Callable[..., MultiTaskMaskFormer]) -> Callable[..., Pair]:
    """A network of this seed in float32, and in bfloat16 with the same attention masks; and how often it rounds.

    Located queries stand at the same cells too.
    """

    def both(seed: int, device: str, images: list[Tensor]) -> Pair:
        torch.manual_seed(seed)
        network = make_network({"color": 4, "texture": 3}).to(device).eval()
        plain, half = Masks(), Masks()
        monkeypatch.setattr(decoder, "attention_mask", plain)
        monkeypatch.setattr(query_selection, "peaks", PEAKS)
        repeated: list[Tensor] = []

        def noted(blobs: query_selection.Blobs) -> Tensor:
            repeated.append(REPEATED(blobs))
            return repeated[0]

        monkeypatch.setattr(query_selection, "repetitions", noted)
        outputs = network(images)
        half.given = plain.allowed
        monkeypatch.setattr(decoder, "attention_mask", half)
        if outputs.maps is not None:
            cells = PEAKS(outputs.maps.heat, query_selection.CANDIDATES * network.num_queries)
            monkeypatch.setattr(query_selection, "peaks", lambda *_: cells)
            monkeypatch.setattr(query_selection, "repetitions", lambda _: repeated[0])
        products = Products(network)
        with torch.autocast(device, dtype=torch.bfloat16), products:
            rounded = network(images)
        return outputs, rounded, plain, half, sum(len(products.types[part]) for part in ("backbone", "decoder"))

    return both


class Products(TorchDispatchMode):
    """Notes the types of what all convolutions, matrix products and attentions give, by the part of the network."""

    def __init__(self, network: MultiTaskMaskFormer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.types: dict[str, list[torch.dtype]] = {}
        self.part = ""
        head = network.sem_seg_head
        for name, module in (
            ("backbone", network.backbone),
            ("pixels", head.pixel_decoder),
            ("decoder", head.predictor),
        ):
            module.register_forward_pre_hook(partial(self._enter, name))

    def _enter(self, name: str, *_: Any) -> None:
        self.part = name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(sign in func.__name__ for sign in ("convolution", "mm", "attention")):
            first = result[0] if isinstance(result, tuple) else result
            self.types.setdefault(self.part, []).append(first.dtype)
        return result


def deviation(rounded: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference, as a share of that of the exact values."""
    return float((rounded.float() - exact).detach().norm() / exact.detach().norm())


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_takes_the_backbone_and_the_decoder_and_leaves_the_pixel_decoder(
    device: str, make_network: Callable[..., MultiTaskMaskFormer], images: list[Tensor]
) -> None:
    network = make_network({"color": 4, "texture": 3}).to(device).eval()
    products = Products(network)
    with torch.autocast(device, dtype=torch.bfloat16), products:
        outputs = network(images)
    found = {part: set(types) for part, types in products.types.items()}
    exact = {torch.float32} if outputs.maps is not None else set()  # where the objects are
    assert found == {"backbone": {torch.bfloat16}, "pixels": {torch.float32}, "decoder": {torch.bfloat16} | exact}
    assert outputs.pred_logits.dtype == torch.bfloat16
    assert outputs.mask_features.dtype == torch.float32
    assert outputs.pred_masks.dtype == torch.float32  # outside of autocast the two types do not multiply


@pytest.mark.parametrize("device", DEVICES)
def test_with_the_same_attention_masks_bfloat16_differs_by_its_rounding(
    run: Callable[..., Pair], device: str, images: list[Tensor]
) -> None:
    """Each product is rounded by half an epsilon at most, independent of the others: the root of their number."""
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        plain, half, _, _, roundings = run(seed, device, images)
        for name, logits in plain.pred_sublogits.items():
            found.setdefault(name, []).append(deviation(half.pred_sublogits[name], logits))
        found.setdefault("masks", []).append(deviation(half.pred_masks, plain.pred_masks))
        found.setdefault("categories", []).append(deviation(half.pred_logits, plain.pred_logits))
    for name, deviations in found.items():
        mean = sum(deviations) / len(deviations)
        assert EPSILON / 8 < mean < roundings**0.5 * EPSILON / 2, (name, deviations)


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_moves_only_cells_on_the_edge_of_a_mask(
    run: Callable[..., Pair], device: str, images: list[Tensor]
) -> None:
    for seed in SEEDS:
        _, _, plain, half, roundings = run(seed, device, images)
        for allowed, rounded, closeness in zip(plain.allowed, half.allowed, plain.closeness, strict=True):
            attends_everywhere = allowed.all(-1) | rounded.all(-1)  # the others' cells are decided one by one
            moved = (allowed != rounded) & ~attends_everywhere[..., None]
            assert (closeness[moved] < roundings**0.5 * EPSILON / 2).all(), seed


@pytest.mark.parametrize("device", DEVICES)
def test_the_loss_of_bfloat16_outputs_is_float32_and_close(
    run: Callable[..., Pair], device: str, images: list[Tensor], make_target: Callable[..., Target]
) -> None:
    """With the same pairs and points; which are best may change with any rounding."""
    plain, half, *_, roundings = run(0, device, images)
    criterion = SetCriterion(LossWeights(), num_points=64, oversample_ratio=1.0, importance_sample_ratio=0.0)
    targets = [make_target(3).to(torch.device(device)), make_target(2, 9).to(torch.device(device))]
    matches: list[Any] = []
    match = criterion.matcher

    def matcher(*arguments: Any) -> Any:
        matches.append(match(*arguments))
        return matches[0]

    criterion.matcher = matcher  # type: ignore[assignment]
    wanted, losses = (
        criterion(outputs, targets, RandomPoints([1, 2], torch.device(device))) for outputs in (plain, half)
    )
    of_maps = {"loss_heatmap", "loss_blob"} if plain.maps is not None else set()
    assert losses.keys() == {"loss_ce", "loss_mask", "loss_dice", "loss_color", "loss_texture"} | of_maps
    for name, term in losses.items():
        assert term.dtype == torch.float32
        assert deviation(term, wanted[name]) < roundings**0.5 * EPSILON, name
    criterion.total(losses).backward()
