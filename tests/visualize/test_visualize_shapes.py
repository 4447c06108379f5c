"""Outlines are where the mask's edge is, at any enlargement; colours tell instances apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raytune_m2f.visualize.shapes import category_colour, instance_colours, mask_shape


def rectangle(height: int, width: int, left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


@pytest.mark.parametrize("factor", [1, 2, 5])
def test_distance_is_that_to_a_straight_edge(factor: int) -> None:
    shape = mask_shape(rectangle(40, 60, 10, 5, 50, 35), (40 * factor, 60 * factor))

    row = shape.distance[20 * factor - shape.box[1]]  # through the middle
    columns = torch.arange(9 * factor, 11 * factor)
    expected = columns + 0.5 - 10 * factor

    assert torch.allclose(row[columns - shape.box[0]], expected, atol=0.02 * factor)


def test_a_mask_at_the_border_goes_on_beyond_it() -> None:
    shape = mask_shape(rectangle(40, 60, 0, 0, 60, 20), (40, 60))

    assert (shape.distance[0] > 1).all()  # no outline along the border
    assert shape.area == 20 * 60


@pytest.mark.parametrize("size", [(640, 917), (111, 159), (37, 53)])
def test_boxes_stay_inside_odd_enlargements(size: tuple[int, int]) -> None:
    shape = mask_shape(torch.ones(37, 53, dtype=torch.bool), size)

    assert shape.box == (0, 0, size[1], size[0])
    assert shape.distance.shape == size


def test_anchors_are_the_outermost_points_even_of_a_speck() -> None:
    anchors = mask_shape(rectangle(40, 60, 10, 5, 51, 36), (40, 60)).anchors()
    speck = mask_shape(rectangle(40, 60, 30, 20, 31, 21), (40, 60)).anchors()

    assert (anchors.top[1], anchors.bottom[1], anchors.left[0], anchors.right[0]) == (5, 35, 10, 50)
    assert anchors.centre == (30, 20)
    assert speck.top == speck.bottom == speck.centre == (30, 20)


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
