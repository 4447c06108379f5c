"""Reading masks at points."""

from __future__ import annotations

import pytest
import torch

from raytune_m2f.model.points import MaskFeatures, RandomPoints, pick_uncertain, sample_maps

CPU = torch.device("cpu")


@pytest.mark.parametrize("points", [7, 300])  # fewer and more than the features have cells
def test_the_table_gives_the_masks_read_at_the_points(points: int) -> None:
    torch.manual_seed(0)
    B, L, Q, D, h, w = 2, 3, 4, 8, 5, 6
    features, embed, places = torch.randn(B, D, h, w), torch.randn(B, L, Q, D), torch.rand(B, L, points, 2)
    places[0, 0, :4] = torch.tensor([(0.0, 0.0), (1.0, 1.0), (0.0, 1.0), (0.99, 0.01)])
    got = MaskFeatures(features).logits_at(embed, places)
    masks = torch.einsum("blqd,bdhw->blqhw", embed, features)
    want = sample_maps(masks.flatten(0, 2), places[:, :, None].expand(-1, -1, Q, -1, -1).flatten(0, 2))
    torch.testing.assert_close(got, want.view(B * L, Q, points).mT, atol=1e-5, rtol=1e-5)


def test_a_map_is_read_at_the_centres_of_its_cells_and_fades_outside() -> None:
    maps = torch.arange(6.0).view(1, 2, 3)
    points = torch.tensor([[((2 + 0.5) / 3, (1 + 0.5) / 2), (1 / 3, 0.25), (0.0, 0.0), (1.0, 0.75)]])
    torch.testing.assert_close(sample_maps(maps, points), torch.tensor([[5.0, 0.5, 0.0, 2.5]]))


def test_the_most_uncertain_candidates_are_kept() -> None:
    logits = torch.tensor([[-8.0, -4.0, 0.0, 4.0, 8.0]]).view(1, 1, 5)
    candidates = torch.tensor([[((x + 0.5) / 5, 0.5) for x in range(5)]])
    kept = pick_uncertain(logits, candidates, 3)[0, :, 0] * 5 - 0.5
    assert sorted(kept.round().tolist()) == [1.0, 2.0, 3.0]


def test_points_do_not_depend_on_how_they_are_cut_into_calls() -> None:
    """So that the loss may take any number of layers together."""
    whole = RandomPoints([3], CPU).draw(0, 6, 5, 7)
    parts = RandomPoints([3], CPU)
    assert torch.equal(whole, torch.cat([parts.draw(0, n, 5, 7) for n in (1, 3, 2)]))
