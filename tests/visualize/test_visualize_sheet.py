"""Contact sheets, and the colours of instances."""

from __future__ import annotations

import numpy as np
import pytest

from raytune_m2f.visualize import contact_sheet
from raytune_m2f.visualize.shapes import category_colour, instance_colours


def test_pictures_stand_in_rows() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    images = [np.full((40, 60 + 20 * i, 3), colour, np.uint8) for i, colour in enumerate(colours)]

    sheet = contact_sheet(images, 2, cell_width=120)

    assert sheet.shape == (12 + 80 + 12 + 48 + 12, 12 + 120 + 12 + 120 + 12, 3)
    assert sheet[40, 60].tolist() == [200, 0, 0]
    assert sheet[40, 200].tolist() == [0, 200, 0]
    assert sheet[12 + 80 + 12 + 20, 60].tolist() == [0, 0, 200]


def test_captions_stand_above_their_pictures() -> None:
    images = [np.full((40, 120, 3), 200, np.uint8)] * 2

    plain = contact_sheet(images, 2, cell_width=120)
    captioned = contact_sheet(images, 2, cell_width=120, captions=["ground truth", "prediction"])

    assert captioned.shape[0] > plain.shape[0]
    assert (captioned[:40] < 100).any()
    with pytest.raises(ValueError, match="zip"):
        contact_sheet(images, 2, captions=["one"])


def test_a_category_keeps_its_colour_and_its_instances_differ() -> None:
    colours = instance_colours([1, 0, 1, 1, 0])

    assert len(set(colours)) == 5
    assert colours[0] == category_colour(1)
    assert colours[1] == category_colour(0)
    assert instance_colours([1])[0] == colours[0]


def test_categories_are_far_apart() -> None:
    colours = np.array([category_colour(i) for i in range(12)], dtype=float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(12)

    assert distances.min() > 20
