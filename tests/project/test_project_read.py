"""Every dialect says the same of the same objects; what a file is, is found by its content; what is none, is refused.

The property test changes a file of each dialect in 60 ways, the same on every run: an Export whose files exist, or a
DatasetError, and nothing else.
"""

from __future__ import annotations

import json
import re
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from export_cases import DIALECTS, FIELDS, WITHOUT_HOLES, shapes, write
from hypothesis import strategies as st
from PIL import Image
from test_fuzz import changed, fuzz

from raytune_m2f.data.masks import decode, to_rle
from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.export import Export, Item, Picture

Mask = npt.NDArray[np.bool_]


def mask_of(item: Item, picture: Picture) -> Mask:
    """(H, W) bool."""
    assert item.segmentation is not None
    shape = (
        item.segmentation if isinstance(item.segmentation, dict) else tuple(array("d", p) for p in item.segmentation)
    )
    rle = to_rle(shape, picture.height, picture.width)
    return np.asarray(decode([rle], picture.height, picture.width)[0], bool)


def iou(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / (first | second).sum())


def number_of(picture: Picture) -> int:
    """Which of the drawn images it is."""
    return int(picture.file.stem.split("-")[-1].split("_")[0])


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_says_the_same(dialect: str, tmp_path: Path) -> None:
    annotations, images = write(dialect, tmp_path, 3)
    export = read_export(annotations, images)
    assert sorted(map(number_of, export.pictures)) == [0, 1, 2]
    assert set(export.categories) == {"disc", "ring", "block"}
    for picture in export.pictures:
        assert (picture.width, picture.height) == (160, 120)
        assert picture.file.is_file()
        drawn = shapes(number_of(picture))
        assert [item.category for item in picture.items] == [one.category for one in drawn]
        for item, one in zip(picture.items, drawn, strict=True):
            assert iou(mask_of(item, picture), one.mask(holes=dialect not in WITHOUT_HOLES)) > 0.97
            assert FIELDS[dialect](one).items() <= dict(item.fields).items()
            assert isinstance(item.segmentation, dict) or not one.holes or dialect in WITHOUT_HOLES
            assert not item.crowd


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_sound_export_has_no_note(dialect: str, tmp_path: Path) -> None:
    annotations, images = write(dialect, tmp_path, 3)
    notes = [note for note in read_export(annotations, images).notes if "only stand above" not in note]
    assert notes == []


@pytest.mark.parametrize("dialect", ["roboflow", "yolo"])
def test_parts_that_the_export_says(dialect: str, tmp_path: Path) -> None:
    annotations, images = write(dialect, tmp_path, 6)
    assert [picture.part for picture in read_export(annotations, images).pictures] == ["train"] * 4 + ["val"] * 2


def two(tmp_path: Path, first: str, second: str) -> tuple[list[Path], list[Path]]:
    """The same data set twice, under two names, each with its images."""
    paths = []
    for name in (first, second):
        (annotations,), _ = write("coco", tmp_path / name, 2)
        paths.append(annotations.rename(annotations.with_name(f"{name}.json")))
    return paths, [path.parent / "images" for path in paths]


def test_of_two_files_the_first_is_for_training(tmp_path: Path) -> None:
    annotations, images = two(tmp_path, "one", "other")
    export = read_export(annotations, images)
    assert [picture.part for picture in export.pictures] == ["train", "train", "val", "val"]
    assert [picture.file.parent.parent.name for picture in export.pictures] == ["one", "one", "other", "other"]


def test_the_names_of_two_files_tell_otherwise(tmp_path: Path) -> None:
    annotations, images = two(tmp_path, "instances_val2017", "instances_train2017")
    assert [picture.part for picture in read_export(annotations, images).pictures] == ["val", "val", "train", "train"]


def test_one_file_has_no_part(tmp_path: Path) -> None:
    annotations, images = two(tmp_path, "train", "other")
    assert {picture.part for picture in read_export(annotations[:1], images).pictures} == {None}


def test_images_of_one_name_in_two_folders(tmp_path: Path) -> None:
    """As in many data sets: train/001.jpg and val/001.jpg, and one folder given for both."""
    two(tmp_path, "train", "val")
    (tmp_path / "train.json").write_bytes((tmp_path / "train" / "train.json").read_bytes())
    (tmp_path / "val.json").write_bytes((tmp_path / "val" / "val.json").read_bytes())
    export = read_export([tmp_path / "train.json", tmp_path / "val.json"], [tmp_path])
    assert [picture.file.relative_to(tmp_path).parts[0] for picture in export.pictures] == ["train"] * 2 + ["val"] * 2
    (tmp_path / "train.json").rename(tmp_path / "some.json")
    with pytest.raises(DatasetError, match="nothing tells which"):
        read_export([tmp_path / "some.json"], [tmp_path])


def test_files_of_several_dialects_are_joined(tmp_path: Path) -> None:
    cvat, first = write("cvat", tmp_path / "a", 2)
    labelme, second = write("labelme", tmp_path / "b", 2)
    export = read_export([*cvat, *labelme], [*first, *second])
    assert export.dialect == "CVAT for images 1.1 and labelme"
    assert export.categories == ("disc", "ring", "block")
    assert [picture.part for picture in export.pictures] == ["train", "train", "val", "val"]


def test_paths_relative_to_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two parts with images of one name: what is beside an annotation file is its image."""
    two(tmp_path, "one", "other")
    monkeypatch.chdir(tmp_path)
    for name in ("one", "other"):
        for image in list((tmp_path / name / "images").iterdir()):
            image.rename(tmp_path / name / image.name)
    export = read_export([Path("one/one.json"), Path("other/other.json")], [Path(".")])
    assert [picture.file.parent.name for picture in export.pictures] == ["one", "one", "other", "other"]
    assert all(picture.file.is_absolute() for picture in export.pictures)


def test_a_folder_of_cvat_tasks_is_joined(tmp_path: Path) -> None:
    for name in ("task_1", "task_2"):
        write("cvat", tmp_path / name, 2)
    for number, name in enumerate(("task_1", "task_2")):
        for image in sorted((tmp_path / name / "images").iterdir()):
            image.rename(image.with_name(f"{number}{image.name}"))
        text = (tmp_path / name / "annotations.xml").read_text()
        (tmp_path / name / "annotations.xml").write_text(text.replace('name="00', f'name="{number}00'))
    export = read_export([tmp_path], [tmp_path])
    assert len(export.pictures) == 4
    assert {picture.part for picture in export.pictures} == {None}


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    annotations, images = write("voc", tmp_path, 2)
    with pytest.raises(DatasetError, match=r"boxes alone.*\n?.*Pascal VOC"):
        read_export(annotations, images)
    (path,), images = write("coco", tmp_path / "coco", 2)
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="boxes alone"):
        read_export([path], images)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.zip", b"PK\x03\x04rest", "unpack it"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b'{"a": 1}', "no annotation file that can be read"),
        ("a.json", b'[{"image_id": 1, "category_id": 2, "score": 0.5}]', "list of predictions"),
        ("a.json", b'[{"image": "/data/upload/1/a.jpg", "label": [], "lead_time": 3.1}]', "JSON-MIN"),
        ("a.json", b'{"images": [], "annotations": [], "categories": []}', "no categories"),
        ("a.json", b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "lists no image"),
        ("a.xml", b"<annotations><track/></annotations>", "for videos"),
        ("a.xml", b"<annotations", "not XML"),
        ("a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><annotations><image/>&b;</annotations>', "DOCTYPE"),
        ("a.txt", b"0 0.1 0.1 0.2 0.1 0.2 0.2\n", "give data.yaml"),
        ("a.bin", b"\x00\x01", "no annotation file that can be read"),
    ],
)
def test_what_is_no_export_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=message):
        read_export([tmp_path / name], [tmp_path])


def test_a_folder_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="holds no annotation file"):
        read_export([tmp_path], [tmp_path])
    with pytest.raises(DatasetError, match="does not exist"):
        read_export([tmp_path / "none.json"], [tmp_path])


def test_no_annotation_file_is_given() -> None:
    with pytest.raises(DatasetError, match="no annotation file is given"):
        read_export([], [])


def test_other_files_in_a_folder(tmp_path: Path) -> None:
    annotations, images = write("labelme", tmp_path, 2)
    (annotations[0] / "classes.json").write_text('["disc"]')
    (annotations[0] / "config.yaml").write_text("a: [")
    export = read_export(annotations, images)
    assert len(export.pictures) == 2
    assert export.notes == ("files that are no annotations are passed over: 1 (classes.json)",)
    (annotations[0] / "001.json").write_text('{"shapes": ')
    with pytest.raises(DatasetError, match=r"001.json is not JSON"):
        read_export(annotations, images)


def test_a_folder_of_two_kinds(tmp_path: Path) -> None:
    write("labelme", tmp_path, 1)
    write("coco", tmp_path, 1)
    with pytest.raises(DatasetError, match="several kinds"):
        read_export([tmp_path], [tmp_path])


def test_cocos_own_folder(tmp_path: Path) -> None:
    """annotations/ with instances, captions and keypoints of both parts."""
    for part in ("train", "val"):
        write("coco", tmp_path / f"{part}2017", 2)
        content = (tmp_path / f"{part}2017" / "instances.json").read_bytes()
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for kind in ("instances", "person_keypoints", "captions"):
            (tmp_path / "annotations" / f"{kind}_{part}2017.json").write_bytes(content)
    export = read_export([tmp_path / "annotations"], [tmp_path])
    assert [picture.part for picture in export.pictures] == ["train"] * 2 + ["val"] * 2
    assert [file.name for file in export.files] == ["instances_train2017.json", "instances_val2017.json"]
    assert "passed over: 4" in export.notes[0]


def test_a_folder_of_two_coco_files(tmp_path: Path) -> None:
    write("coco", tmp_path / "a", 1)
    write("coco", tmp_path / "b", 1)
    with pytest.raises(DatasetError, match="holds 2 COCO files"):
        read_export([tmp_path], [tmp_path])


ANNOTATIONS = {
    "labelme": "labelme/000.json",
    "roboflow": "train/_annotations.coco.json",
    "yolo": "labels/train/000.txt",
}
WORDS = [
    "", "-1", "0", "0.5", "nan", "-inf", "1e999", "99999999999", "7" * 400, "x", "../..", "/", "C:\\a", "a,b", "1,2;3",
    "true", "红", "polygon", "mask", "box", "image", "label", "points", "rle", "%2e%2e", "http://[x", "&#0;",
]  # fmt: skip
CASES = [*DIALECTS, "yolo/data.yaml", "voc"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each dialect a small export: what to give, and the file to change with its content."""
    found = {}
    for case in CASES:
        dialect, _, name = case.partition("/")
        folder = tmp_path_factory.mktemp(dialect)
        annotations, images = write(dialect, folder, 2)
        if name or dialect in ANNOTATIONS:
            path = folder / (name or ANNOTATIONS[dialect])
        else:
            path = annotations[0] if annotations[0].is_file() else sorted(annotations[0].iterdir())[0]
        found[case] = (annotations, images, path, path.read_bytes())
    return found


@pytest.mark.parametrize("case", CASES)
def test_whatever_the_file_an_export_or_our_error(case: str, written: dict[str, Any]) -> None:
    annotations, images, path, content = written[case]

    @fuzz(60)
    def check(data: st.DataObject) -> None:
        is_json = path.suffix == ".json"
        path.write_bytes(changed(data, content) if is_json or data.draw(st.booleans()) else reworded(data, content))
        with suppress(DatasetError):
            check_export(read_export(annotations, images))

    check()
    path.write_bytes(content)


def reworded(data: st.DataObject, content: bytes) -> bytes:
    """One number, word or quoted text of a file is another."""
    text = content.decode("utf-8")
    words = list(re.finditer(r'(?<=")[^"]*(?=")|[\w.]+', text))
    place = data.draw(st.sampled_from(words))
    return (text[: place.start()] + data.draw(st.sampled_from(WORDS)) + text[place.end() :]).encode("utf-8")


def check_export(export: Export) -> None:
    """What every reader of an Export relies on."""
    assert export.pictures
    for picture in export.pictures:
        assert picture.file.is_file()
        with Image.open(picture.file) as image:
            assert image.size == (picture.width, picture.height)
        for item in picture.items:
            assert item.category in export.categories
            assert all(isinstance(value, str | int | float | bool) for value in item.fields.values())
            if item.segmentation is not None:
                assert mask_of(item, picture).shape == (picture.height, picture.width)
    json.dumps([dict(item.fields) for item in export.items], ensure_ascii=False).encode("utf-8")
