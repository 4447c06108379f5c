"""labelme: https://github.com/wkentaro/labelme, _label_file.py (the file) and utils/shape.py (what a shape covers)."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_project_read import mask_of

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.export import Export

TRIANGLE = [[5, 5], [25, 5], [25, 25]]


def read(folder: Path, *shapes: dict[str, Any], **top: Any) -> Export:
    """A file of one image, 40 x 30."""
    content: dict[str, Any] = {"version": "5.5.0", "flags": {}, "imagePath": "a.png", "imageData": "x" * 5000}
    content |= {"imageHeight": 30, "imageWidth": 40}
    common: dict[str, Any] = {
        "label": "fig",
        "shape_type": "polygon",
        "points": TRIANGLE,
        "group_id": None,
        "flags": {},
    }
    content["shapes"] = [common | shape for shape in shapes]
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    (folder / "a.json").write_text(json.dumps(content | top))
    return read_export([folder / "a.json"], [folder])


def test_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    other = [[30, 5], [35, 5], [35, 25]]
    export = read(
        tmp_path,
        {"group_id": 1, "flags": {"wet": True}},
        {"group_id": 1, "points": other},
        {"group_id": 1, "label": "date"},
        {"group_id": None},
    )
    first, second, third = export.items
    assert first.segmentation == ((5, 5, 25, 5, 25, 25), (30, 5, 35, 5, 35, 25))
    assert first.fields == {"flags.wet": True}
    assert (second.category, third.category) == ("date", "fig")


def test_flags_descriptions_and_further_keys_are_fields(tmp_path: Path) -> None:
    shape = {
        "flags": {"wet": True, "old": False},
        "description": "ripe",
        "difficult": False,
        "attributes": {"color": "red"},
    }
    export = read(tmp_path, shape, {"description": "", "flags": None}, flags={"blurred": True})
    first, second = export.items
    assert first.fields == {
        "flags.wet": True, "flags.old": False, "description": "ripe", "difficult": False, "attributes.color": "red"
    }  # fmt: skip
    assert second.fields == {}
    assert dict(export.pictures[0].fields) == {"flags.blurred": True}


def test_circles_and_rectangles_cover_what_is_in_them(tmp_path: Path) -> None:
    circle = {"shape_type": "circle", "points": [[15, 15], [15, 25]]}
    rectangle = {"shape_type": "rectangle", "points": [[30, 20], [10, 10]]}
    turned = {"shape_type": "rectangle", "points": [[20, 5], [30, 15], [20, 25], [10, 15]]}
    export = read(tmp_path, circle, rectangle, turned)
    areas = [int(mask_of(item, export.pictures[0]).sum()) for item in export.items]
    assert areas[0] == pytest.approx(314, rel=0.03)
    assert areas[1] == 200
    assert areas[2] == pytest.approx(200, rel=0.1)


def test_masks_with_a_hole(tmp_path: Path) -> None:
    crop = np.ones((11, 21), bool)
    crop[4:7, 8:14] = False
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "PNG")
    text = base64.b64encode(file.getvalue()).decode("ascii")
    export = read(tmp_path, {"shape_type": "mask", "points": [[10, 5], [30, 15]], "mask": text})
    wanted = np.zeros((30, 40), bool)
    wanted[5:16, 10:31] = crop
    assert (mask_of(next(export.items), export.pictures[0]) == wanted).all()


def test_points_and_lines_have_no_area(tmp_path: Path) -> None:
    kinds = [{"shape_type": kind} for kind in ("point", "line", "linestrip")]
    export = read(tmp_path, *kinds, {"shape_type": "spiral"}, {"shape_type": "mask", "mask": "????"}, {"label": ""}, {})
    assert len(list(export.items)) == 1
    assert [note.partition(" (")[0] for note in export.notes] == [
        "points and lines, which have no area, are left out: 3",
        "shapes of a kind that is not known, or with too few points, are left out: 1",
        "masks that cannot be read are left out: 1",
        "shapes without a label are left out: 1",
    ]


def test_labelmes_words_for_no_object_are_no_category(tmp_path: Path) -> None:
    export = read(tmp_path, {}, {"label": "__ignore__"}, {"label": "_background_"})
    assert export.categories == ("fig",)
    assert len(list(export.items)) == 1
    assert sum("labelme's word for no object" in note for note in export.notes) == 2


def test_images_that_are_in_the_json_alone_are_told(tmp_path: Path) -> None:
    content = {"shapes": [], "imagePath": "gone.png", "imageData": "x", "imageHeight": 30, "imageWidth": 40}
    (tmp_path / "gone.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"not one of its 1 image files was found.*hold the images themselves"):
        read_export([tmp_path / "gone.json"], [tmp_path])


def test_rectangles_alone_are_boxes(tmp_path: Path) -> None:
    rectangle: dict[str, Any] = {"shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
    others: list[list[dict[str, Any]]] = [[], [{"shape_type": "point"}]]
    for other in others:
        with pytest.raises(DatasetError, match="boxes alone"):
            read(tmp_path, rectangle, *other)
    assert len(list(read(tmp_path, rectangle, {}).items)) == 2


@pytest.mark.parametrize(
    "path", ["../images/a.png", "..\\images\\a.png", "C:\\data\\images\\a.png", "/data/a.png", "A.PNG"]
)
def test_images_are_found_whatever_their_path(path: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    read(tmp_path, {})
    (tmp_path / "a.png").rename(tmp_path / "images" / "a.png")
    content = json.loads((tmp_path / "a.json").read_text()) | {"imagePath": path}
    (tmp_path / "labels" / "a.json").write_text(json.dumps(content))
    export = read_export([tmp_path / "labels"], [tmp_path / "images"])
    assert export.pictures[0].file == tmp_path / "images" / "a.png"


def test_images_beside_their_files_need_no_folder(tmp_path: Path) -> None:
    read(tmp_path, {})
    assert read_export([tmp_path], []).pictures[0].file == tmp_path / "a.png"
