"""Loading of annotation files: everything that can be wrong with one is named."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from raytune_m2f.data import Categories, CocoDataset, check_same_labels, load_coco
from raytune_m2f.errors import DatasetError
from raytune_m2f.model import UNKNOWN

SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]
CONTENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "b.png", "width": 20, "height": 10},
        {"id": 3, "file_name": "sub/a.png", "width": 20, "height": 10},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 30, "segmentation": [SQUARE], "area": 36, "bbox": [2, 2, 6, 6],
         "iscrowd": 0, "subcat_1": 2, "subcat_2": 0},
        {"id": 2, "image_id": 7, "category_id": 5, "segmentation": [SQUARE], "area": 36, "bbox": [2, 2, 6, 6],
         "subcat_1": None},
    ],
    "categories": [{"id": 30, "name": "nut"}, {"id": 5, "name": "fig"}],
    "subcategories": {"subcat_1": ["small", "middle", "large"], "subcat_2": ["ripe"]},
}  # fmt: skip
HEADS = ("subcat_1", "subcat_2")


@pytest.fixture
def content() -> dict[str, Any]:
    return copy.deepcopy(CONTENT)


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., CocoDataset]:
    """Write a content as annotation file beside its image files and load it."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("b.png", "sub/a.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / name)

    def write_and_load(content: Any, heads: tuple[str, ...] = HEADS) -> CocoDataset:
        file = tmp_path / "instances.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return load_coco("mine", file, tmp_path / "images", heads)

    return write_and_load


def test_reads_what_the_file_says(content: Any, load: Any, tmp_path: Path) -> None:
    dataset = load(content)
    assert [r.id for r in dataset.records] == [3, 7]
    assert dataset.records[0].annotations == ()
    assert dataset.records[0].file == tmp_path / "images" / "sub" / "a.png"
    first, second = dataset.records[1].annotations
    assert (first.label, second.label) == (1, 0)  # labels follow the sorted ids 5, 30
    assert first.sublabels == {"subcat_1": 2, "subcat_2": 0}
    assert second.sublabels == {"subcat_1": UNKNOWN, "subcat_2": UNKNOWN}
    assert (first.bbox, first.area, first.iscrowd) == ((2, 2, 6, 6), 36, False)
    assert first.mask(10, 20).sum() == 36
    assert first.mask(10, 20)[2:8, 2:8].all()
    assert dataset.categories == Categories(
        (5, 30), ("fig", "nut"), {"subcat_1": ("small", "middle", "large"), "subcat_2": ("ripe",)}
    )


def test_heads_are_those_asked_for_in_their_order(content: Any, load: Any) -> None:
    assert load(content, ()).records[1].annotations[0].sublabels == {}
    assert list(load(content, ("subcat_2", "subcat_1")).categories.subcategories) == ["subcat_2", "subcat_1"]


def test_a_dataset_travels_to_a_worker(content: Any, load: Any) -> None:
    dataset = load(content)
    assert pickle.loads(pickle.dumps(dataset)) == dataset


def test_area_and_box_come_from_the_mask_where_the_file_has_none(content: Any, load: Any) -> None:
    del content["annotations"][0]["area"], content["annotations"][0]["bbox"]
    first = load(content).records[1].annotations[0]
    assert (first.bbox, first.area) == ((2, 2, 6, 6), 36)


def mask_of_stripes() -> np.ndarray[Any, np.dtype[np.uint8]]:
    mask = np.zeros((10, 20), np.uint8, order="F")
    mask[3:5, 1:19:2] = 1
    mask[9, 19] = 1
    return mask


@pytest.mark.parametrize("form", ["compressed", "uncompressed"])
def test_rle_in_both_forms(content: Any, load: Any, form: str) -> None:
    mask = mask_of_stripes()
    counts: Any = mask_utils.encode(mask)["counts"].decode()
    if form == "uncompressed":
        column_major = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(column_major)) + 1
        counts = np.diff([0, *edges, mask.size]).tolist()
    content["annotations"][0] |= {"segmentation": {"size": [10, 20], "counts": counts}, "iscrowd": 1}
    annotation = load(content).records[1].annotations[0]
    np.testing.assert_array_equal(annotation.mask(10, 20), mask)
    assert annotation.iscrowd
    assert load(content).records[1].instances == load(content).records[1].annotations[1:]


def test_several_polygons_are_one_mask(content: Any, load: Any) -> None:
    content["annotations"][0]["segmentation"] = [SQUARE, [12, 0, 15, 0, 15, 3, 12, 3], SQUARE]
    assert load(content).records[1].annotations[0].mask(10, 20).sum() == 36 + 9


def test_degenerate_polygons_are_left_out_and_counted(content: Any, load: Any) -> None:
    content["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]
    content["annotations"][1]["segmentation"] = [[1, 1, 5, 5], SQUARE, [1, 2, 3, 4, 5, 6, 7]]
    dataset = load(content)
    (annotation,) = dataset.records[1].annotations
    assert annotation.id == 2
    assert annotation.mask(10, 20).sum() == 36
    assert dataset.without_polygon == 1


def test_a_file_may_have_images_and_no_annotation(content: Any, load: Any) -> None:
    content["annotations"] = []
    assert [record.annotations for record in load(content).records] == [(), ()]


Change = Callable[[dict[str, Any]], None]


def annotation(**fields: Any) -> Change:
    return lambda content: content["annotations"][0].update(fields)


def image(**fields: Any) -> Change:
    return lambda content: content["images"][0].update(fields)


def rle(counts: Any, size: Any = (10, 20)) -> Change:
    return annotation(segmentation={"size": list(size), "counts": counts})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "no list 'images'"),
        (lambda c: c.update(images=[]), "empty annotation file .*instances.json: 'images'"),
        (lambda c: c.update(annotations={}), "no list 'annotations'"),
        (lambda c: c.update(categories=[]), "instances.json: no categories"),
        (lambda c: c["categories"].append({"id": 5, "name": "x"}), "category id 5 is given twice"),
        (lambda c: c["categories"].append({"id": 6, "name": "fig"}), "category name 'fig' is given twice"),
        (lambda c: c["categories"].append({"id": True, "name": "x"}), "integer 'id'"),
        (lambda c: c["categories"].append({"id": 9}), "text 'name'"),
        (lambda c: c.pop("subcategories"), "'subcat_1' is not in .* it has no 'subcategories' at all"),
        (lambda c: c.update(subcategories={"subcat1": ["a"]}), "it has 'subcat1'; did you mean 'subcat1'"),
        (lambda c: c.update(subcategories=["subcat_1"]), "'subcategories' must be an object"),
        (lambda c: c["subcategories"].update(subcat_2=[]), r"subcategories\['subcat_2'\] must be a list"),
        (lambda c: c["subcategories"].update(subcat_2=["a", "a"]), "class name 'a' is given twice"),
        (lambda c: c["images"].append(c["images"][0]), "image 7: the id is given twice"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "annotation 1: the id is given twice"),
        (lambda c: c["annotations"].append("text"), "annotation that reads 'text': .* must be an object"),
        (lambda c: c["images"].append(None), "image that reads 'None': .* must be an object"),
        (image(id="7"), "image '7': id must be an integer, got '7'"),
        (image(width=0), "image 7: width and height must be 1 pixel at least, got 0 x 10"),
        (image(height=-3), "image 7: width and height must be 1 pixel at least, got 20 x -3"),
        (image(height=None), "image 7: height must be an integer, got None"),
        (image(file_name="/etc/passwd"), "image 7: file_name '/etc/passwd' leaves the image folder"),
        (image(file_name="../b.png"), "image 7: file_name '../b.png' leaves the image folder"),
        (image(file_name="sub/../../b.png"), "leaves the image folder"),
        (image(file_name="..\\b.png"), "leaves the image folder"),
        (image(file_name="C:\\b.png"), "leaves the image folder"),
        (image(file_name=""), "image 7: file_name must be a relative path, got ''"),
        (image(file_name=None), "image 7: file_name must be a relative path, got None"),
        (image(file_name="c.png"), r"1 of the image files are not in .*images: c.png"),
        (image(file_name="no/c.png"), r"1 of the image files are not in .*images: no/c.png"),
        (annotation(id=None), "annotation None: id must be an integer"),
        (annotation(image_id=8), "annotation 1: image_id 8 is not among the images"),
        (annotation(image_id=[7]), "annotation 1: image_id must be an integer"),
        (annotation(category_id=6), "annotation 1: category_id 6 is not among the categories 5, 30"),
        (annotation(ignore=1), "annotation 1: 'ignore' is not supported"),
        (annotation(iscrowd=2), "annotation 1: iscrowd must be 0 or 1, got 2"),
        (annotation(bbox=[1, 2, 3]), "annotation 1: bbox must be four numbers"),
        (annotation(bbox=[]), "annotation 1: bbox must be four numbers"),
        (annotation(bbox=None), "annotation 1: bbox must be four numbers"),
        (annotation(bbox=[1, 2, float("nan"), 3]), "annotation 1: bbox must be four numbers"),
        (annotation(bbox=[5, 5, -1, 2]), r"annotation 1: bbox \[5, 5, -1, 2\] has a negative size"),
        (annotation(area=-1), "annotation 1: area must be a number of pixels, 0 at least, got -1"),
        (annotation(area="36"), "annotation 1: area must be a number of pixels"),
        (annotation(segmentation=None), "annotation 1: segmentation must be a list of polygons"),
        (annotation(segmentation=[]), "annotation 1: segmentation must be a list of polygons"),
        (annotation(segmentation=SQUARE), "annotation 1: segmentation must be a list of polygons"),
        (annotation(segmentation=[SQUARE, 5]), "a polygon must be a list of numbers"),
        (annotation(segmentation=[["a"] * 6]), "a polygon must be a list of numbers"),
        (annotation(segmentation=[[float("nan"), *SQUARE[1:]]]), "far outside the image of 20 x 10"),
        (annotation(segmentation=[[1e9, *SQUARE[1:]]]), "far outside the image of 20 x 10"),
        (rle([10, 190], size=(20, 10)), r"segmentation: size \[20, 10\] but the image is \[10, 20\]"),
        (rle([10, 20]), "the RLE's runs do not cover the image"),
        (rle([10, -20, 210]), "the RLE's runs do not cover the image"),
        (rle([10, 190.0]), "RLE counts must be integers"),
        (rle([10**400]), "the RLE's runs do not cover the image"),
        (rle("0"), "the RLE's runs do not cover the image"),
        (rle(""), "not a compressed RLE"),
        (rle("zzz"), "not a compressed RLE"),
        (rle("é"), "not a compressed RLE"),
        (annotation(subcat_1=3), r"annotation 1: subcat_1 = 3, allowed is an integer from 0 to 2 \(small, mid"),
        (annotation(subcat_1=-1), "subcat_1 = -1, allowed is an integer from 0 to 2 .*leave the field out"),
        (annotation(subcat_1=1.0), "subcat_1 = 1.0, allowed is an integer"),
        (annotation(subcat_1=True), "subcat_1 = True, allowed is an integer"),
        (annotation(subcat_2="ripe"), "subcat_2 = 'ripe', allowed is an integer from 0 to 0"),
    ],
)
def test_refuses(content: Any, load: Any, change: Change, message: str) -> None:
    change(content)
    with pytest.raises(DatasetError, match=message) as caught:
        load(content)
    assert "instances.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "\x80", "[" * 100_000])
def test_refuses_what_is_not_json(load: Any, text: str) -> None:
    with pytest.raises(DatasetError, match=r"instances\.json is not JSON"):
        load(text)


def test_refuses_json_of_another_kind(load: Any) -> None:
    with pytest.raises(DatasetError, match="holds no JSON object"):
        load("[1]")


def test_refuses_missing_file_and_folder(content: Any, load: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"absent\.json cannot be read: No such file"):
        load_coco("mine", tmp_path / "absent.json", tmp_path, ())
    load(content)
    with pytest.raises(DatasetError, match=r"image folder .*nowhere of .*instances\.json does not exist"):
        load_coco("mine", tmp_path / "instances.json", tmp_path / "nowhere", ())


def test_shows_ten_problems_and_counts_the_rest(content: Any, load: Any) -> None:
    content["annotations"] = [{**content["annotations"][0], "id": i, "subcat_1": 9} for i in range(1, 26)]
    with pytest.raises(DatasetError) as caught:
        load(content)
    lines = str(caught.value).splitlines()
    assert len(lines) == 12
    assert lines[0].endswith("instances.json: 25 problems")
    assert lines[10].startswith("  annotation 10: subcat_1 = 9")
    assert lines[11] == "  ... and 15 more"


def test_one_error_counts_missing_images(content: Any, load: Any) -> None:
    content["images"] += [{"id": i, "file_name": f"{i}.png", "width": 5, "height": 5} for i in range(100, 105)]
    with pytest.raises(DatasetError, match=r"5 of the image files are not in .*: 100.png, 101.png, 102.png, \.\.\."):
        load(content)


def test_same_labels(content: Any, load: Any) -> None:
    train = load(content)
    check_same_labels(train, load(content))
    content["categories"][0]["name"] = "almond"
    with pytest.raises(DatasetError, match=r"categories differ .*\n.*'nut'.*\n.*'almond'"):
        check_same_labels(train, load(content))
    content["categories"][0]["name"] = "nut"
    content["subcategories"]["subcat_1"].reverse()
    with pytest.raises(DatasetError, match="subcategories 'subcat_1' differ"):
        check_same_labels(train, load(content))
    with pytest.raises(DatasetError, match="subcategories 'subcat_2' differ"):
        check_same_labels(load(CONTENT, ("subcat_1",)), load(CONTENT))


def test_categories_round_trip(content: Any, load: Any) -> None:
    categories = load(content).categories
    assert Categories.from_dict(json.loads(json.dumps(categories.to_dict()))) == categories
    assert (len(categories), categories.sizes) == (2, {"subcat_1": 3, "subcat_2": 1})


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # of pycocotools' own decode
@pytest.mark.parametrize("name", ["fruits_nuts", "nuclei_dsb", "coco_cc"])
def test_real_masks_equal_pycocotools(data_root: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = data_root / name / "annotations_val.json"
    dataset = load_coco(name, file, data_root / name / "val", HEADS)
    reference = COCO(str(file))
    assert sum(len(r.annotations) for r in dataset.records) == len(reference.anns)
    for record in dataset.records[:10]:
        for ours in record.annotations:
            theirs = reference.anns[ours.id]
            np.testing.assert_array_equal(ours.mask(record.height, record.width), reference.annToMask(theirs))
            assert dataset.categories.ids[ours.label] == theirs["category_id"]
            assert ours.sublabels == {head: theirs[head] for head in HEADS}


def test_peculiarities_of_coco(data_root: Path) -> None:
    folder = data_root / "coco_cc"
    dataset = load_coco("coco_cc", folder / "annotations_train.json", folder / "train", HEADS)
    assert dataset.categories.ids == (1, 2, 10, 16, 27, 34, 44, 52, 62, 72, 78, 84)
    assert dataset.categories.sizes == {"subcat_1": 80, "subcat_2": 2}
    assert sum(not r.annotations for r in dataset.records) == 3
    crowds = [(a, r) for r in dataset.records for a in r.annotations if a.iscrowd]
    assert len(crowds) == 9
    assert all(a.mask(r.height, r.width).sum() == a.area for a, r in crowds)
    assert max(a.label for r in dataset.records for a in r.annotations) == 11
    polygons = [a.segmentation for r in dataset.records for a in r.annotations if not a.iscrowd]
    assert any(len(parts) > 1 for parts in polygons)
