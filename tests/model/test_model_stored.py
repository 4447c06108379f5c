"""Parity with numbers that Mask2Former itself gave, for where it is not importable (made by stored/make_stored.py)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import stored_parity as parity
import torch
from numpy.typing import NDArray

from raytune_m2f.model import MultiTaskMaskFormer, Outputs


@dataclass(frozen=True)
class Guard:
    """A case, the reference's numbers for it, and what ours gives."""

    case: parity.Case
    wanted: dict[str, NDArray[Any]]
    network: MultiTaskMaskFormer
    outputs: Outputs
    losses: dict[str, torch.Tensor]


@cache
def guard_of(case: parity.Case) -> Guard:
    network, criterion = parity.build_case(case), parity.build_loss()
    outputs = network(parity.images_of(case))
    losses = criterion(outputs, parity.targets_of(case), parity.StoredPoints())
    criterion.total(losses).backward()
    return Guard(case, parity.load(case), network, outputs, losses)


@pytest.fixture(params=parity.CASES, ids=lambda case: case.name)
def guard(request: pytest.FixtureRequest) -> Guard:
    return guard_of(request.param)


def test_outputs_are_the_stored_ones(guard: Guard) -> None:
    outputs, wanted = guard.outputs, guard.wanted
    np.testing.assert_allclose(outputs.pred_logits.detach().numpy(), wanted["pred_logits"], atol=1e-4, rtol=0)
    np.testing.assert_allclose(outputs.pred_masks.detach().numpy(), wanted["pred_masks"], atol=1e-4, rtol=0)


def test_every_loss_term_of_every_output_is_the_stored_one(guard: Guard) -> None:
    assert set(guard.losses) == {"loss_ce", "loss_mask", "loss_dice"}
    for name, values in guard.losses.items():
        np.testing.assert_allclose(values.detach().numpy(), guard.wanted[name], rtol=1e-4, err_msg=name)


def test_gradients_are_the_stored_ones(guard: Guard) -> None:
    """By norm and projections; what is 0 but for rounding (a bias before a norm) counts against the largest norm."""
    wanted = guard.wanted
    ours = parity.summary_of(parity.named_gradients(guard.network))
    assert str(ours["gradient_names"]) == str(wanted["gradient_names"])
    norms = wanted["gradient_norms"]
    allowed = 1e-3 * norms + 1e-6 * norms.max()
    errors = (
        np.abs(ours["gradient_norms"] - norms),
        np.abs(ours["gradient_projections"] - wanted["gradient_projections"]).max(1),
    )
    worst = np.max(errors, axis=0) / allowed
    name = str(wanted["gradient_names"]).split("\n")[int(worst.argmax())]
    assert worst.max() < 1, f"{name}: {worst.max():.1f} times what is allowed"


def test_instances_are_the_stored_ones(guard: Guard) -> None:
    found = guard.network.predict(parity.images_of(guard.case), parity.ORIGINALS, max_instances=parity.MAX_INSTANCES)
    for b, instances in enumerate(found):
        ours = parity.instances_as_arrays(b, instances.scores, instances.labels, instances.masks)
        np.testing.assert_allclose(ours[f"scores_{b}"], guard.wanted[f"scores_{b}"], atol=1e-5)
        np.testing.assert_array_equal(ours[f"labels_{b}"], guard.wanted[f"labels_{b}"])
        differing = np.unpackbits(ours[f"masks_{b}"] ^ guard.wanted[f"masks_{b}"]).sum()
        assert differing <= 1e-4 * instances.masks.numel(), f"{differing} pixels"
