"""YOLO segmentation: https://docs.ultralytics.com/datasets/segment; train.txt as CVAT writes it:
https://docs.cvat.ai/docs/dataset_management/formats/format-yolo-ultralytics."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects import read_export
from raytune_m2f.project.export import Export

TRIANGLE = "0 0.25 0.5 0.75 0.5 0.75 1\n"
NAMES = "names: [fig, date]\n"


def write(folder: Path, labels: dict[str, str], *images: str, yaml: str | None = NAMES) -> Path:
    """Label files by their path below `labels`, an image of 40 x 20 for each and for `images`, and data.yaml."""
    for name, text in labels.items():
        path = (folder / "labels" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name in (*labels, *images):
        path = (folder / "images" / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 20)).save(path)
    if yaml is None:
        return folder
    (folder / "data.yaml").write_text(yaml)
    return folder / "data.yaml"


def parts(export: Export) -> dict[str, str | None]:
    return {picture.file.name: picture.part for picture in export.pictures}


def test_a_line_is_an_object_in_shares(tmp_path: Path) -> None:
    export = read_export([write(tmp_path, {"a": TRIANGLE + "\n1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n"})], [tmp_path])
    first, second = export.items
    assert (first.category, second.category) == ("fig", "date")
    assert first.segmentation == ((10.0, 10.0, 30.0, 10.0, 30.0, 20.0),)
    assert first.origin == "a.txt, line 1"
    assert export.categories == ("fig", "date")


@pytest.mark.parametrize(
    "yaml", ["names:\n  0: fig\n  1: date\n", "names: [fig, date]\n", "names: {'0': fig, '1': date}\n"]
)
def test_names_as_a_list_or_by_number(yaml: str, tmp_path: Path) -> None:
    assert read_export([write(tmp_path, {"a": TRIANGLE}, yaml=yaml)], [tmp_path]).categories == ("fig", "date")


def test_lines_that_are_no_outline(tmp_path: Path) -> None:
    lines = {
        "box": "0 0.5 0.5 0.2 0.2", "a score": "0 0.25 0.5 0.75 0.5 0.75 1 0.9", "class": "7 0.1 0.1 0.2 0.1 0.2 0.2",
        "pixels": "0 100 100 200 100 200 200", "words": "fig 1 2", "short": "0 0.1",
    }  # fmt: skip
    export = read_export([write(tmp_path, {"a": TRIANGLE + "\n".join(lines.values())})], [tmp_path])
    assert [item.segmentation is None for item in export.items] == [False, True, False]
    assert [note.partition(" (")[0] for note in export.notes] == [
        "objects of a class that is not among the 2 names are left out: 1",
        "lines with coordinates beyond 0 to 1 are left out: 1",
        "lines that cannot be read are left out: 2",
    ]


def test_boxes_alone_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="boxes alone"):
        read_export([write(tmp_path, {"a": "0 0.5 0.5 0.2 0.2\n"})], [tmp_path])


def test_images_without_labels_show_no_object(tmp_path: Path) -> None:
    export = read_export([write(tmp_path, {"train/a": TRIANGLE, "val/b": TRIANGLE}, "train/c", "other/d")], [tmp_path])
    assert parts(export) == {"a.png": "train", "b.png": "val", "c.png": "train"}
    assert "images without a label file, which are taken as images without objects: 1 (c.png)" in export.notes


def test_parts_as_data_yaml_says(tmp_path: Path) -> None:
    yaml = NAMES + "train: images/first\nval: [images/second, images/third]\n"
    path = write(tmp_path, {"first/a": TRIANGLE, "second/b": TRIANGLE, "third/c": TRIANGLE}, yaml=yaml)
    assert parts(read_export([path], [tmp_path])) == {"a.png": "train", "b.png": "val", "c.png": "val"}


def test_parts_as_lists_of_files(tmp_path: Path) -> None:
    path = write(tmp_path, {"a": TRIANGLE, "b": TRIANGLE}, yaml=NAMES + "path: ./\ntrain: train.txt\nval: val.txt\n")
    (tmp_path / "train.txt").write_text("images/a.png\n")
    (tmp_path / "val.txt").write_text("./images/b.png\n")
    assert parts(read_export([path], [tmp_path / "images"])) == {"a.png": "train", "b.png": "val"}


def test_roboflows_paths_and_folders(tmp_path: Path) -> None:
    """train/images beside train/labels; its data.yaml says ../train/images of what is beside it."""
    for part in ("train", "valid"):
        write(tmp_path / part, {part: TRIANGLE}, yaml=None)
    (tmp_path / "data.yaml").write_text(NAMES + "train: ../train/images\nval: ../valid/images\n")
    assert parts(read_export([tmp_path / "data.yaml"], [tmp_path])) == {"train.png": "train", "valid.png": "val"}
    assert parts(read_export([tmp_path], [tmp_path])) == {"train.png": "train", "valid.png": "val"}


def test_a_folder_of_labels_without_names(tmp_path: Path) -> None:
    export = read_export([write(tmp_path, {"a": "3" + TRIANGLE[1:]}, yaml=None)], [tmp_path])
    assert export.categories == ("class 3",)
    assert "classes have no names, as there is no data.yaml: they are numbered: 1" in export.notes
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    assert read_export([tmp_path], [tmp_path]).categories == ("a", "b", "c", "d")


@pytest.mark.parametrize("path", ["/content/datasets/fruit", "../../..", "/", "C:\\data"])
def test_a_path_of_another_machine_is_not_followed(path: str, tmp_path: Path) -> None:
    given = write(tmp_path / "a" / "b", {"a": TRIANGLE}, yaml=NAMES + f"path: '{path}'\ntrain: images\n")
    write(tmp_path / "elsewhere", {"b": TRIANGLE}, yaml=None)
    assert list(parts(read_export([given], [given.parent / "images"]))) == ["a.png"]


def test_data_yaml_beside_the_data_set(tmp_path: Path) -> None:
    write(tmp_path / "data", {"a": TRIANGLE}, yaml=None)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "fruit.yaml").write_text(NAMES + "path: ../data\ntrain: images\n")
    export = read_export([tmp_path / "configs" / "fruit.yaml"], [tmp_path / "data" / "images"])
    assert parts(export) == {"a.png": "train"}


def test_there_is_no_label_file(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text(NAMES)
    with pytest.raises(DatasetError, match="no label file"):
        read_export([tmp_path / "data.yaml"], [tmp_path])
