"""Sizes that contradict: what can be told is mended, what cannot is left out, both are noted, nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from test_project_read import iou, mask_of

from raytune_m2f.data.images import read_image
from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.export import Export

ORIENTATION = 274  # EXIF's tag


def save(folder: Path, name: str, size: tuple[int, int], orientation: int = 1) -> None:
    """An image with a white rectangle where `drawn` says, in the frame in which it is stored."""
    image = Image.new("RGB", size)
    image.paste((255, 255, 255), (10, 4, 36, 16))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(folder / name, exif=exif)


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def read(folder: Path, *images: tuple[str, tuple[int, int], Any]) -> Export:
    """A COCO file of images, each with one object: name, size as the file says, segmentation."""
    content: dict[str, Any] = {"categories": [{"id": 1, "name": "fig"}], "images": [], "annotations": []}
    for number, (name, (width, height), segmentation) in enumerate(images, start=1):
        content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
        annotation = {"id": number, "image_id": number, "category_id": 1, "segmentation": segmentation}
        content["annotations"] += [annotation] if segmentation else []
    (folder / "some.json").write_text(json.dumps(content))
    return read_export([folder / "some.json"], [folder])


def test_an_image_at_another_size(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (40, 20))
    mask = np.zeros((40, 80), np.uint8)
    mask[8:32, 20:72] = 1
    rle = mask_utils.encode(np.asfortranarray(mask))
    runs = {"size": [40, 80], "counts": rle["counts"].decode("ascii")}
    for segmentation in (rectangle(20, 8, 72, 32), runs):
        export = read(tmp_path, ("a.png", (80, 40), segmentation))
        (picture,) = export.pictures
        assert (picture.width, picture.height) == (40, 20)
        assert iou(mask_of(picture.items[0], picture), read_image(picture.file)[..., 0] > 128) == 1
        assert "scaled to it: 1" in export.notes[0]


def test_a_size_that_objects_contradict(tmp_path: Path) -> None:
    """The export says 20 x 10, but its objects lie where the file of 40 x 20 has them."""
    save(tmp_path, "a.png", (40, 20))
    export = read(tmp_path, ("a.png", (20, 10), rectangle(10, 4, 36, 16)))
    (picture,) = export.pictures
    assert iou(mask_of(picture.items[0], picture), read_image(picture.file)[..., 0] > 128) == 1
    assert "taken as they are: 1 (a.png)" in export.notes[0]


def test_a_wrong_size_is_wrong_for_all(tmp_path: Path) -> None:
    """One size for all images, as some exporters write it: a small object would fit it too."""
    for name in ("a.png", "b.png"):
        save(tmp_path, name, (40, 20))
    small = rectangle(2, 2, 8, 6)
    export = read(tmp_path, ("a.png", (20, 10), rectangle(10, 4, 36, 16)), ("b.png", (20, 10), small))
    assert export.pictures[1].items[0].segmentation == ((2, 2, 8, 2, 8, 6, 2, 6),)


def test_nearly_square_images_are_not_exchanged(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (41, 40))
    export = read(tmp_path, ("a.png", (40, 40), rectangle(2, 2, 9, 6)), ("a.png", (40, 41), rectangle(2, 2, 9, 6)))
    assert len(export.pictures) == 2


def test_an_image_of_other_proportions_is_another_image(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (40, 20))
    save(tmp_path, "b.png", (40, 20))
    export = read(
        tmp_path, ("a.png", (40, 30), rectangle(10, 4, 36, 16)), ("b.png", (40, 20), rectangle(10, 4, 36, 16))
    )
    assert [picture.file.name for picture in export.pictures] == ["b.png"]
    assert "a.png is 40 x 20, the export says 40 x 30" in export.notes[0]
    with pytest.raises(DatasetError, match="none of its 1 images can be used"):
        read(tmp_path, ("a.png", (40, 30), rectangle(10, 4, 36, 16)))


def test_rounded_sizes_are_one_scale(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (333, 217))
    export = read(tmp_path, ("a.png", (1000, 651), rectangle(30, 12, 108, 48)))
    assert len(export.pictures) == 1


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_objects_drawn_before_the_rotation_are_rotated(orientation: int, tmp_path: Path) -> None:
    """Stored as 40 x 20, shown as 20 x 40; the object reaches to x = 36, so it was drawn on what is stored."""
    save(tmp_path, "a.jpg", (40, 20), orientation)
    save(tmp_path, "b.jpg", (40, 20), orientation)
    mask = np.zeros((20, 40), np.uint8)
    mask[4:16, 10:36] = 1
    rle = mask_utils.encode(np.asfortranarray(mask))
    runs = {"size": [20, 40], "counts": rle["counts"].decode("ascii")}
    export = read(tmp_path, ("a.jpg", (40, 20), rectangle(10, 4, 36, 16)), ("b.jpg", (40, 20), runs))
    for picture in export.pictures:
        assert (picture.width, picture.height) == (20, 40)
        assert iou(mask_of(picture.items[0], picture), read_image(picture.file)[..., 0] > 128) > 0.97
    assert "drawn before the rotation: they are rotated: 2" in export.notes[0]


def test_objects_drawn_on_the_rotated_image_stay(tmp_path: Path) -> None:
    save(tmp_path, "a.jpg", (40, 20), 6)
    export = read(tmp_path, ("a.jpg", (40, 20), rectangle(4, 10, 16, 36)))
    (picture,) = export.pictures
    assert iou(mask_of(picture.items[0], picture), read_image(picture.file)[..., 0] > 128) > 0.97
    assert "drawn on the rotated image: 1 (a.jpg)" in export.notes[0]


def test_one_object_tells_it_for_all(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path, name, (40, 20), 6)
    export = read(tmp_path, ("a.jpg", (40, 20), rectangle(10, 4, 36, 16)), ("b.jpg", (40, 20), rectangle(2, 2, 9, 6)))
    assert export.pictures[1].items[0].segmentation == ((18.0, 2.0, 18.0, 9.0, 14.0, 9.0, 14.0, 2.0),)


def test_what_cannot_be_told_is_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        save(tmp_path, name, (40, 20), 6 if name == "a.jpg" else 1)
    nothing: list[list[float]] = []
    export = read(
        tmp_path,
        ("a.jpg", (40, 20), rectangle(2, 2, 9, 6)),
        ("b.jpg", (40, 20), rectangle(2, 2, 9, 6)),
        ("c.jpg", (20, 40), nothing),
    )
    assert [picture.file.name for picture in export.pictures] == ["b.jpg", "c.jpg"]
    assert "whether their objects were drawn before or after it cannot be told" in export.notes[0]


def test_a_rotated_image_whose_size_is_right(tmp_path: Path) -> None:
    save(tmp_path, "a.jpg", (40, 20), 6)
    export = read(tmp_path, ("a.jpg", (20, 40), rectangle(4, 10, 16, 36)))
    assert export.notes == ()
    assert (export.pictures[0].width, export.pictures[0].height) == (20, 40)


def test_a_mask_of_another_size_than_its_image(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (40, 20))
    half, other = {"size": [10, 20], "counts": [0, 200]}, {"size": [10, 10], "counts": [0, 100]}
    export = read(tmp_path, ("a.png", (40, 20), half), ("a.png", (40, 20), other))
    (item,) = export.items
    assert mask_of(item, export.pictures[0]).all()
    assert [note.partition(" (")[0] for note in export.notes] == [
        "image files that stand for several images of the export: 1",
        "masks of another size than their image are scaled to it: 1",
        "masks of other proportions than their image are left out: 1",
    ]


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (40, 20))
    (tmp_path / "b.png").write_bytes(b"no image")
    square = rectangle(1, 1, 9, 9)
    export = read(tmp_path, ("a.png", (40, 20), square), ("b.png", (40, 20), square), ("c.png", (40, 20), square))
    assert [picture.file.name for picture in export.pictures] == ["a.png"]
    assert export.notes[0] == "image files that were not found; their objects are left out: 1 ('c.png')"
    assert export.notes[1].startswith("image files that cannot be read are left out, with their objects: 1 (image")


def test_none_is_found(tmp_path: Path) -> None:
    save(tmp_path, "a.png", (40, 20))
    with pytest.raises(DatasetError, match=r"not one of its 1 image files was found, such as 'x.png'"):
        read(tmp_path, ("x.png", (40, 20), rectangle(1, 1, 9, 9)))


def test_several_names_that_lead_to_one_file(tmp_path: Path) -> None:
    """Copies that Roboflow made of one picture, without their files: each was changed, so none is that picture."""
    save(tmp_path, "a.jpg", (40, 20))
    square = rectangle(1, 1, 9, 9)
    names = [f"a_jpg.rf.{number:032x}.jpg" for number in range(2)]
    assert len(read(tmp_path, (names[0], (40, 20), square)).pictures) == 1
    with pytest.raises(DatasetError, match="not one of its 2 image files"):
        read(tmp_path, *((name, (40, 20), square) for name in names))
