"""COCO as tools write it: https://cocodataset.org/#format-data, and what stands beside it.

PACO: https://github.com/facebookresearch/paco/blob/main/docs/PACO_DATASET.md; Fashionpedia: https://fashionpedia.github.io;
CVAT: https://docs.cvat.ai/docs/dataset_management/formats/format-coco; LVIS: https://www.lvisdataset.org/dataset.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from test_project_read import mask_of

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.export import Export, Item

SQUARE = [10.0, 10.0, 30.0, 10.0, 30.0, 30.0, 10.0, 30.0]
RUNS = [410, 20, 20, 20, 730]  # of an image of 40 x 30: two columns of 20, column by column


def read(folder: Path, *annotations: dict[str, Any], prefix: bytes = b"", **top: Any) -> Export:
    """A file of one image, 40 x 30, with these annotations; what they do not say is filled in."""
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "fig"}, {"id": 2, "name": "date"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]} | annotation
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    Image.new("RGB", (40, 30)).save(folder / "a.png")
    (folder / "some.json").write_bytes(prefix + json.dumps(content | top).encode("utf-8"))
    return read_export([folder / "some.json"], [folder])


def items(export: Export) -> list[Item]:
    return list(export.items)


@pytest.mark.parametrize("key", ["7", 7.0, "a-b", 2**70, 1e20, -3, 0])
def test_ids_of_any_kind(key: Any, tmp_path: Path) -> None:
    image = [{"id": key, "file_name": "a.png", "width": 40, "height": 30}]
    export = read(
        tmp_path,
        {"image_id": key, "category_id": key, "id": key},
        images=image,
        categories=[{"id": key, "name": "fig"}],
    )
    assert [item.category for item in export.items] == ["fig"]


def test_ids_are_compared_as_numbers(tmp_path: Path) -> None:
    assert len(items(read(tmp_path, {"image_id": "1", "category_id": 1.0}))) == 1


def test_a_byte_order_mark_and_nan(tmp_path: Path) -> None:
    export = read(tmp_path, {"area": float("nan"), "weight": float("nan"), "height_m": 2.5}, prefix=b"\xef\xbb\xbf")
    assert items(export)[0].fields == {"height_m": 2.5}


@pytest.mark.parametrize(
    "value",
    [
        [SQUARE],
        SQUARE,
        [[10, 10], [30, 10], [30, 30], [10, 30]],
        [[[10, 10], [30, 10], [30, 30], [10, 30]]],
        [SQUARE, [1, 2]],
    ],
)
def test_polygons_in_any_nesting(value: Any, tmp_path: Path) -> None:
    assert items(read(tmp_path, {"segmentation": value}))[0].segmentation == (tuple(SQUARE),)


def test_run_lengths_of_both_kinds(tmp_path: Path) -> None:
    runs = {"size": [30, 40], "counts": RUNS}
    text = mask_utils.frPyObjects(runs, 30, 40)["counts"].decode("ascii")
    export = read(tmp_path, {"segmentation": runs}, {"segmentation": {"size": [30, 40], "counts": text}})
    assert [item.segmentation for item in export.items] == [{"size": [30, 40], "counts": text}] * 2


@pytest.mark.parametrize("value", [None, [], {}, [[]], ""])
def test_objects_with_a_box_alone(value: Any, tmp_path: Path) -> None:
    export = read(tmp_path, {"segmentation": value, "bbox": [1, 2, 3, 4]}, {})
    assert [item.segmentation is None for item in export.items] == [True, False]
    assert export.notes == ()


@pytest.mark.parametrize("value", [[[1, 2, 3, 4]], {"size": [30, 40], "counts": [5]}, 3, [["x"]], {"size": [30, 40]}])
def test_what_is_no_mask_is_counted(value: Any, tmp_path: Path) -> None:
    export = read(tmp_path, {"segmentation": value, "bbox": [1, 2, 3, 4]}, {})
    assert [item.segmentation is None for item in export.items] == [True, False]
    assert len(export.notes) == 1
    assert "some.json, annotation 1" in export.notes[0]


@pytest.mark.parametrize(("area", "is_hole"), [(300.0, True), (310, True), (400.0, False), (None, False), (350, False)])
def test_an_outline_inside_another(area: float | None, is_hole: bool, tmp_path: Path) -> None:
    """supervision's as_coco lists the contours of a mask, holes too; the area tells."""
    inner = [15.0, 15.0, 25.0, 15.0, 25.0, 25.0, 15.0, 25.0]
    export = read(tmp_path, {"segmentation": [SQUARE, inner], "area": area})
    (item,) = export.items
    assert isinstance(item.segmentation, dict) == is_hole
    assert mask_of(item, export.pictures[0]).sum() == (300 if is_hole else 400)
    assert len(export.notes) == is_hole


def test_labels_as_indices(tmp_path: Path) -> None:
    said: list[dict[str, Any]] = [{"ripeness": 1}, {"ripeness": "green"}, {"ripeness": 2}, {"ripeness": None}, {}]
    export = read(tmp_path, *said, subcategories={"ripeness": ["green", "ripe"]})
    assert [dict(item.fields) for item in export.items] == [{"ripeness": "ripe"}, {"ripeness": "green"}, {}, {}, {}]
    assert export.classes == {"ripeness": ("green", "ripe")}
    assert export.notes == (
        "labels of 'ripeness' outside of its 2 classes count as unknown: 1 (some.json, annotation 3: 2)",
    )


def test_labels_of_a_head_in_attributes(tmp_path: Path) -> None:
    """As in shared case 03: the classes are listed, the labels stand elsewhere."""
    export = read(tmp_path, {"attributes": {"ripeness": "ripe"}}, subcategories={"ripeness": ["green", "ripe"]})
    assert export.classes["attributes.ripeness"] == ("green", "ripe")


PACO: dict[str, Any] = {
    "attributes": [{"id": i, "name": name} for i, name in enumerate(["black", "red", "plain", "wood"])],
    "attr_type_to_attr_idxs": {"color": [0, 1], "pattern_marking": [2], "material": [3]},
}


def test_attribute_ids_by_their_kind(tmp_path: Path) -> None:
    export = read(tmp_path, {"attribute_ids": [1, 3]}, {"attribute_ids": []}, **PACO)
    assert [dict(item.fields) for item in export.items] == [
        {"attribute_ids.color": "red", "attribute_ids.material": "wood"},
        {},
    ]
    assert export.classes["attribute_ids.color"] == ("black", "red")


def test_two_attributes_of_one_kind_are_no_single_label(tmp_path: Path) -> None:
    export = read(tmp_path, {"attribute_ids": [0, 1, 2]}, **PACO)
    assert dict(items(export)[0].fields) == {"attribute_ids.pattern_marking": "plain"}
    assert export.notes == (
        "objects with several values of attribute_ids.color have no single label of it: 1 (some.json, annotation 1)",
    )


def test_attributes_grouped_by_their_supercategory(tmp_path: Path) -> None:
    attributes = [
        {"id": 5, "name": "mini", "supercategory": "length"},
        {"id": 9, "name": "wool", "supercategory": "textile"},
    ]
    export = read(tmp_path, {"attribute_ids": [9]}, {"attribute_ids": [5, 77]}, attributes=attributes)
    assert [dict(item.fields) for item in export.items] == [
        {"attribute_ids.textile": "wool"},
        {"attribute_ids.length": "mini"},
    ]
    assert "numbers in 'attribute_ids' that no attribute has are left out: 1" in export.notes[0]


def test_attributes_without_groups_are_true_or_false(tmp_path: Path) -> None:
    export = read(tmp_path, {"attribute_ids": [2]}, attributes=[{"id": 1, "name": "wet"}, {"id": 2, "name": "old"}])
    assert dict(items(export)[0].fields) == {"attribute_ids.wet": False, "attribute_ids.old": True}


def test_fields_in_every_place(tmp_path: Path) -> None:
    export = read(
        tmp_path,
        {
            "track_id": 7,
            "attributes": {"ripe": True, "size": 3, "empty": "", "nothing": None, " note ": " sweet "},
            "extra": {"who": {"name": "ann"}},
            "tags": ["wet", "old"],
            "single": ["red"],
            "said": [{"name": "ripeness", "value": "green"}],
            "keypoints": [1, 2, 2],
            "embedding": [0.5, 0.25],
            "text": "x" * 1000,
        },
        {"tags": ["wet"]},
    )
    assert dict(items(export)[0].fields) == {
        "track_id": 7, "attributes.ripe": True, "attributes.size": 3, "attributes.note": "sweet",
        "extra.who.name": "ann", "tags.wet": True, "tags.old": True, "single": "red", "said.ripeness": "green",
    }  # fmt: skip
    assert dict(items(export)[1].fields) == {"tags.wet": True, "tags.old": False}
    assert export.notes == (
        "lists of numbers or objects are left out: 'embedding': 1",
        "texts of more than 300 characters are left out: 'text': 1",
    )


def test_what_cvat_drew_as_a_mask_is_no_crowd(tmp_path: Path) -> None:
    runs, said = {"size": [30, 40], "counts": RUNS}, {"attributes": {"occluded": False}}
    export = read(tmp_path, said | {"segmentation": runs, "iscrowd": 1}, said | {"iscrowd": 0})
    assert [item.crowd for item in export.items] == [False, False]
    assert "drawn as masks are single objects here: 1" in export.notes[0]


def test_other_crowds_stay(tmp_path: Path) -> None:
    runs = {"size": [30, 40], "counts": RUNS}
    export = read(tmp_path, {"segmentation": runs, "iscrowd": 1}, {"iscrowd": True}, {"iscrowd": 0}, {})
    assert [item.crowd for item in export.items] == [True, True, False, False]


def test_roboflows_category_above_the_others(tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "fruits", "supercategory": "none"}]
    categories += [
        {"id": i, "name": name, "supercategory": "fruits"} for i, name in enumerate(["fig", "date"], start=1)
    ]
    assert read(tmp_path, {}, categories=categories).categories == ("fig", "date")
    export = read(tmp_path, {}, {"category_id": 0}, categories=categories)
    assert export.categories == ("fruits", "fig", "date")


def test_supercategories_that_say_something(tmp_path: Path) -> None:
    categories = [
        {"id": 1, "name": "beagle", "supercategory": "dog"},
        {"id": 2, "name": "tabby", "supercategory": "cat"},
    ]
    export = read(tmp_path, {}, {"category_id": 2}, categories=categories)
    assert [item.fields for item in export.items] == [
        {"category.supercategory": "dog"},
        {"category.supercategory": "cat"},
    ]


def test_what_refers_to_nothing_is_counted(tmp_path: Path) -> None:
    export = read(tmp_path, {}, {"category_id": 9}, {"image_id": 9}, {"category_id": [1]})
    assert len(items(export)) == 1
    assert [note.partition(" (")[0] for note in export.notes] == [
        "objects of a category that is not listed are left out: 2",
        "objects of an image that is not listed are left out: 1",
    ]


def test_categories_of_one_name(tmp_path: Path) -> None:
    export = read(tmp_path, {}, {"category_id": 2}, categories=[{"id": 1, "name": "fig"}, {"id": 2, "name": "fig"}])
    assert export.categories == ("fig",)
    assert "categories of the name of another are one with it: 1" in export.notes


def test_polygons_in_shares_of_the_sides(tmp_path: Path) -> None:
    """As in shared case 04."""
    share = [0.25, 0.25, 0.75, 0.25, 0.75, 0.75]
    export = read(tmp_path, {"segmentation": [share]}, {"segmentation": [share]})
    assert items(export)[0].segmentation == ((10.0, 7.5, 30.0, 7.5, 30.0, 22.5),)
    assert "outlines in 0 to 1 instead of pixels are multiplied by width and height: 2" in export.notes[0]


def test_a_small_object_is_no_share(tmp_path: Path) -> None:
    small = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    export = read(tmp_path, {"segmentation": [small]}, {}, {}, {})
    assert items(export)[0].segmentation == (tuple(small),)


def test_fields_of_images_are_kept(tmp_path: Path) -> None:
    image = {
        "id": 1,
        "file_name": "a.png",
        "width": 40,
        "height": 30,
        "video_id": 3,
        "extra": {"name": "b"},
        "neg": [1, 2],
    }
    assert dict(read(tmp_path, {}, images=[image]).pictures[0].fields) == {"video_id": 3, "extra.name": "b"}


def test_parts_that_images_say(tmp_path: Path) -> None:
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30, "split": "validation"}
    assert read(tmp_path, {}, images=[image]).pictures[0].part == "val"


def test_no_object_at_all(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no object on any of its 1 images"):
        read(tmp_path)


def test_objects_outside_of_their_image(tmp_path: Path) -> None:
    outside = [50.0, 50.0, 60.0, 50.0, 60.0, 60.0]
    far = [10.0, 10.0, 5000.0, 10.0, 30.0, 30.0]
    export = read(tmp_path, {"segmentation": [outside]}, {"segmentation": [far]}, {})
    assert len(items(export)) == 1
    assert "outside of their image, are left out: 2" in export.notes[0]


def test_the_panoptic_form_is_named(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
        "categories": [{"id": 1, "name": "fig", "isthing": 1}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 3, "category_id": 1}]}],
    }
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="panoptic form"):
        read_export([tmp_path / "panoptic.json"], [tmp_path])
