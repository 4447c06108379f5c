"""Parity with Mask2Former itself, where detectron2 and Mask2Former are on the path (pytest -m reference)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.reference import (
    Batch,
    Setting,
    build_criterion,
    build_ours,
    build_reference,
    import_reference,
    state_of,
)
from raytune_m2f.model import MultiTaskMaskFormer, RandomPoints

pytestmark = [pytest.mark.reference, pytest.mark.filterwarnings("ignore")]

POINTS = 512
TERMS = {"loss_ce": 2.0, "loss_mask": 5.0, "loss_dice": 5.0}


@pytest.fixture(params=["R18", "R50", "swin_tiny"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, MultiTaskMaskFormer]:
    """The reference with random weights, and ours with the same."""
    try:
        import_reference()
    except ImportError as error:
        pytest.skip(str(error))
    setting = Setting(backbone=request.param, points=POINTS)
    reference, ours = build_reference(setting), build_ours(setting)
    state = state_of(reference)
    missing, unexpected = ours.load_state_dict(state)
    assert (missing, unexpected) == ([], [])
    assert ours.state_dict().keys() == state.keys()
    return reference.eval(), ours.eval()  # evaluation, for Swin drops paths at random; nothing else differs


def batch_of(seed: int) -> Batch:
    """Two images of different sizes with three and five rectangles."""
    return Batch([(96, 128), (110, 90)], [3, 5], seed)


real_rand = torch.rand


def points_by_number(*shape: int, **options: Any) -> Tensor:
    """In place of torch.rand: the same points for every mask, a function of how many there are."""
    rng = torch.Generator().manual_seed(shape[-2])
    return real_rand(shape[-2], 2, generator=rng).expand(*shape).clone()


class SharedPoints(RandomPoints):
    """The same points as the reference draws; it draws candidates and plain points one after the other."""

    def __init__(self) -> None:
        super().__init__([], torch.device("cpu"))

    def draw(self, image: int, *shape: int) -> Tensor:
        *masks, count = shape
        if count == POINTS:
            return points_by_number(*shape, 2)
        return torch.cat([points_by_number(*masks, n, 2) for n in (3 * POINTS, count - 3 * POINTS)], dim=-2)


def test_losses_and_gradients_are_the_references(
    pair: tuple[Any, MultiTaskMaskFormer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every batch, but for rounding: where it turns a ReLU or swaps two points, gradients jump by a thousandth."""
    monkeypatch.setattr(torch, "rand", points_by_number)
    found = [differences(*pair, batch_of(seed)) for seed in (3, 4, 5)]
    least = {name: min(batch[name] for batch in found) for name in found[0]}
    terms, gradients = (
        {name: value for name, value in least.items() if name.startswith("loss_") == wanted} for wanted in (True, False)
    )
    name = max(gradients, key=gradients.__getitem__)
    print(f"loss terms: {max(terms.values()):.1e} relative; gradients: {gradients[name]:.1e} relative, of {name}")
    assert max(terms.values()) < 1e-4
    assert gradients[name] < 1e-3


def differences(reference: Any, ours: MultiTaskMaskFormer, batch: Batch) -> dict[str, float]:
    """Relative, of each loss term in each layer, and of each parameter's gradient."""
    reference.zero_grad()
    ours.zero_grad()
    reference.training = True  # of the network itself alone: it returns losses
    theirs = reference(batch.reference_inputs())
    criterion = build_criterion(Setting(points=POINTS))
    losses = criterion(ours(batch.images), batch.targets(), SharedPoints())
    found = {}
    for name, weight in TERMS.items():
        for layer, value in enumerate(losses[name]):
            key = name if layer == len(losses[name]) - 1 else f"{name}_{layer}"
            found[key] = abs(weight * value.item() / theirs[key].item() - 1)
    sum(theirs.values()).backward()
    criterion.total(losses).backward()
    gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    return found | dict(gradient_differences(ours, gradients))


def gradient_differences(ours: MultiTaskMaskFormer, wanted: dict[str, Any]) -> Any:
    for name, parameter in ours.named_parameters():
        stem, _, rest = name.partition(".")
        grad = wanted[f"backbone.{ours.backbone.stored_name(rest)}" if stem == "backbone" else name]
        assert parameter.grad is not None
        # where it is nothing but rounding in the reference, so it has to be in ours
        yield name, float((parameter.grad - grad).norm() / max(grad.norm(), 1e-3))


@torch.no_grad()
def test_outputs_and_instances_are_the_references(pair: tuple[Any, MultiTaskMaskFormer]) -> None:
    reference, ours = pair
    batch = batch_of(3)
    theirs = reference.sem_seg_head(reference.backbone(ours.preprocess(batch.images)))
    outputs = ours(batch.images)
    logits, mask_logits = (
        float((a - b).abs().max())
        for a, b in ((outputs.pred_logits[-1], theirs["pred_logits"]), (outputs.pred_masks, theirs["pred_masks"]))
    )
    print(f"logits: {logits:.1e}; masks: {mask_logits:.1e}, of up to {float(theirs['pred_masks'].abs().max()):.1f}")
    assert logits < 1e-4
    assert mask_logits < 1e-4
    wanted = [result["instances"] for result in reference(batch.reference_inputs())]
    for instances, want in zip(ours.predict(batch.images, batch.originals, max_instances=100), wanted, strict=True):
        order = want.scores.argsort(descending=True, stable=True)
        torch.testing.assert_close(instances.scores, want.scores[order], atol=1e-5, rtol=0)
        assert torch.equal(instances.labels, want.pred_classes[order])
        # only instances of the same score to rounding may have changed places
        masks, apart = want.pred_masks[order].bool(), (instances.scores[:, None] - want.scores[order]).abs()
        equal = (apart < 5e-7) | torch.eye(len(masks), dtype=torch.bool)
        wrong = [
            (masks[same] != mask).float().mean((1, 2)).min() for mask, same in zip(instances.masks, equal, strict=True)
        ]
        assert torch.stack(wrong).mean() < 1e-4
