"""Objects that can be learnt from, and why the others cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_exports import SIDE, export, item, picture

from raytune_m2f.errors import InputError
from raytune_m2f.project.masks import masks_of, unannotated

FULL = {"size": [SIDE, SIDE], "counts": [0, SIDE * SIDE]}


def test_boxes_and_areas_are_those_of_the_mask(tmp_path: Path) -> None:
    items = [item(5, "apple"), item(0, "apple", segmentation=FULL, crowd=True)]
    (photo,) = masks_of(export([picture(tmp_path, "a.png", items)])).photos
    assert [(thing.box, thing.area) for thing in photo.things] == [((10, 10, 8, 8), 64), ((0, 0, SIDE, SIDE), SIDE**2)]
    assert [thing.item for thing in photo.instances] == items[:1]


def test_objects_without_a_mask_are_counted_and_named(tmp_path: Path) -> None:
    items = [
        item(1, "apple"),
        item(2, "apple", segmentation=None),
        item(3, "apple", segmentation=None),
        item(4, "apple", segmentation=((0.0, 0.0, 5.0, 5.0),)),
        item(5, "apple", segmentation={"size": [SIDE, SIDE], "counts": [SIDE * SIDE]}),
        item(6, "apple", segmentation={"size": [9, 9], "counts": [81]}),
    ]
    masks = masks_of(export([picture(tmp_path, "a.png", items)]))
    assert len(masks.photos[0].things) == 1
    assert masks.left_out == (
        "2 objects left out, a box or a point without a mask: made.json, annotation 2, made.json, annotation 3",
        "1 object left out, no polygon of three points: made.json, annotation 4",
        "1 object left out, a mask without a pixel in the image: made.json, annotation 5",
        "1 object left out, size [9, 9] but the image is [40, 40] (height, width): made.json, annotation 6",
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"segmentation": None}, "nothing to learn. 1 image; 1 object left out, a box or a point"),
        ({"crowd": True}, r"Every object with a mask is a crowd \(iscrowd 1\).*Set iscrowd to 0 on single objects"),
    ],
)
def test_nothing_to_learn(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        masks_of(export([picture(tmp_path, "a.png", [item(0, "apple", **changed)])]))
    with pytest.raises(InputError, match="no image in it"):
        masks_of(export([]))


def test_images_of_several_folders_have_a_common_one(tmp_path: Path) -> None:
    pictures = [picture(tmp_path / "x" / name, "1.png", [item(0, "apple")]) for name in ("b", "a")]
    masks = masks_of(export(pictures))
    assert masks.root == tmp_path / "x"
    assert [photo.name for photo in masks.photos] == ["a/1.png", "b/1.png"]


def test_a_file_that_is_named_twice_is_one_image(tmp_path: Path) -> None:
    pictures = [picture(tmp_path, "1.png", [item(n, "apple")], fields={"video": n}) for n in (0, 1)]
    (photo,) = masks_of(export(pictures)).photos
    assert len(photo.things) == 2
    assert photo.picture.fields == {"video": 0}


def test_a_file_in_two_parts_is_refused(tmp_path: Path) -> None:
    pictures = [picture(tmp_path, "1.png", [item(0, "apple")], part=part) for part in ("train", "val")]
    with pytest.raises(InputError, match=r"1 image file in two parts of the export \(train and val\): .*1\.png"):
        masks_of(export(pictures))


@pytest.mark.parametrize("name", ["\\b.png", "c:d.png"])
def test_names_that_mean_a_disk_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="rename the file"):
        masks_of(export([picture(tmp_path, name, [item(0, "apple")])]))


def test_images_that_the_export_does_not_name_are_counted(tmp_path: Path) -> None:
    picture(tmp_path, "other.png", [])
    (tmp_path / "notes.txt").write_text("")
    assert unannotated(masks_of(export([picture(tmp_path, "a.png", [item(0, "apple")])]))) == 1
