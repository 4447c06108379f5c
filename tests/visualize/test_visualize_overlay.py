"""Overlays: the right size, drawn where the instance is, and nowhere else; contact sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raytune_m2f.data import Categories, load_coco, read_image
from raytune_m2f.model import Instances
from raytune_m2f.visualize import Picture, contact_sheet, draw_instances, ground_truth_instances

CATEGORIES = Categories(ids=(1, 2), names=("nut", "fig"), subcategories={"side": ("left", "right")})
GREY = np.full((96, 120, 3), 128, np.uint8)


def instances(*boxes: tuple[int, int, int, int], height: int = 96, width: int = 120, side: float = 0.9) -> Instances:
    """A rectangle (left, top, right, bottom) each, scores 0.9, 0.8 ..., all of them of side "left"."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = True
    return Instances(
        scores=torch.tensor([0.9 - 0.1 * i for i in range(len(boxes))]),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        masks=masks,
        queries=torch.arange(len(boxes)),
        subprobs={"side": torch.tensor([[side, 0.0]] * len(boxes)).reshape(len(boxes), 2)},
    )


def changed(picture: Picture, image: Picture = GREY) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where anything was drawn on a picture of the image's size."""
    drawn: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = np.any(picture != image, axis=-1)
    return drawn


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (96, 96, (640, 640)),  # enlarged
        (96, 120, (640, 800)),
        (700, 900, (700, 900)),  # large enough
        (10, 200, (102, 2048)),  # the longer side has a bound
        (37, 53, (640, 917)),  # no whole factor
    ],
)
def test_small_images_are_enlarged(height: int, width: int, expected: tuple[int, int]) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    everywhere = instances((0, 0, width, height), height=height, width=width)

    picture = draw_instances(image, everywhere, CATEGORIES)

    assert picture.shape == (*expected, 3)
    assert picture.dtype == np.uint8


def test_only_the_instance_its_outline_and_its_label_are_drawn() -> None:
    drawn = changed(draw_instances(GREY, instances((40, 60, 80, 90)), CATEGORIES, short_side=96))

    assert drawn[62:88, 42:78].all()
    below = drawn[60:]
    assert not below[:, :36].any()
    assert not below[:, 84:].any()


def test_instances_below_the_threshold_are_left_out() -> None:
    one, two = instances((5, 30, 50, 90)), instances((5, 30, 50, 90), (70, 30, 115, 90))  # scores 0.9 and 0.8

    kept = draw_instances(GREY, two, CATEGORIES, short_side=96, score_threshold=0.85)

    assert np.array_equal(kept, draw_instances(GREY, one, CATEGORIES, short_side=96))
    assert not np.array_equal(kept, draw_instances(GREY, two, CATEGORIES, short_side=96))


def test_nothing_to_draw_leaves_the_image_as_it_is() -> None:
    empty_mask = instances((5, 5, 5, 5))

    assert np.array_equal(draw_instances(GREY, instances(), CATEGORIES, short_side=96), GREY)
    assert np.array_equal(draw_instances(GREY, empty_mask, CATEGORIES, short_side=96), GREY)


def test_the_input_is_not_changed() -> None:
    image = GREY.copy()

    draw_instances(image, instances((5, 5, 50, 50)), CATEGORIES, short_side=96)

    assert np.array_equal(image, GREY)


def test_unknown_subcategories_and_hidden_scores_take_no_room() -> None:
    known, unknown = (
        instances((100, 300, 200, 400), height=700, width=900),
        instances((100, 300, 200, 400), height=700, width=900, side=0.0),
    )
    image = np.full((700, 900, 3), 128, np.uint8)

    areas = [
        int(changed(draw_instances(image, given, CATEGORIES, show_scores=show), image).sum())
        for given, show in ((known, True), (known, False), (unknown, False))
    ]

    assert areas[0] > areas[1] > areas[2]


def test_a_crowd_gets_a_legend_in_the_corner_instead_of_labels() -> None:
    boxes = [(x, y, x + 4, y + 4) for x in range(40, 116, 6) for y in range(30, 90, 6)]
    crowd = instances(*boxes)
    crowd = Instances(torch.ones(len(boxes)), crowd.labels, crowd.masks, crowd.queries)

    picture = draw_instances(np.full((96, 120, 3), 255, np.uint8), crowd, CATEGORIES)

    dark = np.all(picture < 90, axis=-1)
    assert dark[4:20, 4:60].mean() > 0.5
    assert dark[160:].mean() < 0.01  # no plates of labels among the instances


def test_real_images_can_be_drawn(data_root: Path) -> None:
    for name in ("fruits_nuts", "coco_cc"):
        data = load_coco(name, data_root / name / "annotations_val.json", data_root / name / "val", ("subcat_1",))
        for record in data.records[:3]:
            image = read_image(record.file)
            picture = draw_instances(image, ground_truth_instances(record, data.categories), data.categories)
            assert min(picture.shape[:2]) == 640


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
