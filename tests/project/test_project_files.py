"""Image files are found by what an export calls them, and never outside of the folders that were given."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_m2f.errors import DatasetError
from raytune_m2f.project.dialects.draft import Draft
from raytune_m2f.project.dialects.files import ImageFiles, original_name, spellings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """root/ with images, and one that is outside of it."""
    names = [
        "train/001.jpg",
        "val/001.jpg",
        "val/002.JPG",
        "deep/er/red fig.png",
        "café.png",
        "b.png",
        "0a1b2c3d-c.png",
    ]
    for name in names:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "secret.png").touch()
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("train/001.jpg", "train/001.jpg"), ("train\\001.jpg", "train/001.jpg"), ("./train//001.jpg", "train/001.jpg"),
        ("images/train/001.jpg", "train/001.jpg"), ("/data/set/val/001.jpg", "val/001.jpg"),
        ("C:\\data\\val\\001.jpg", "val/001.jpg"), ("val/002.jpg", "val/002.JPG"), ("002.jpg", "val/002.JPG"),
        ("002.png", "val/002.JPG"), ("red%20fig.png", "deep/er/red fig.png"), ("cafe\u0301.png", "café.png"),
        ("s3://bucket/a/b.png", "b.png"), ("https://x.org/q/b.png?v=1#top", "b.png"), ("12345678-b.png", "b.png"),
        ("../../elsewhere/b.png", "b.png"), ("train/../val/001.jpg", "val/001.jpg"), ("c.png", None),
        ("http://[x", None), ("", None), ("..", None), ("C:", None), ("/", None), ("../secret.png", None),
        ("%2e%2e/secret.png", None),
        ("nowhere.jpg", None), ("b.png\0", "b.png"), ("x" * 5000, None),
    ],
)  # fmt: skip
def test_what_a_name_leads_to(name: str, found: str | None, root: Path) -> None:
    expected = [root / found] if found else []
    assert ImageFiles([root]).find(Draft(name, ())) == expected


def test_an_absolute_name_outside_of_the_folders(root: Path) -> None:
    files = ImageFiles([root])
    assert files.find(Draft(str(root.parent / "secret.png"), ())) == []
    assert files.find(Draft(str(root / "b.png"), ())) == [root / "b.png"]
    assert ImageFiles([root.parent]).find(Draft("../secret.png", (), base=root)) == [root.parent / "secret.png"]


def test_a_file_of_another_part_is_not_it(root: Path) -> None:
    assert ImageFiles([root / "val"]).find(Draft("train/001.jpg", ())) == []
    assert ImageFiles([root / "val"]).find(Draft("valid/001.jpg", ())) == [root / "val/001.jpg"]
    assert ImageFiles([root / "val"]).find(Draft("set/001.jpg", ())) == [root / "val/001.jpg"]


def test_names_that_several_files_have(root: Path) -> None:
    assert ImageFiles([root]).find(Draft("001.jpg", ())) == [root / "train/001.jpg", root / "val/001.jpg"]
    assert ImageFiles([root]).find(Draft("001.jpg", ()), root / "val") == [root / "val/001.jpg"]
    assert ImageFiles([root / "train", root / "val"]).find(Draft("001.jpg", (), base=root / "val")) == [
        root / "val/001.jpg"
    ]


def test_what_lies_in_the_folder_itself_comes_first(root: Path) -> None:
    (root / "deep" / "b.png").touch()
    assert ImageFiles([root]).find(Draft("b.png", ())) == [root / "b.png"]


def test_aliases_and_names_without_suffix(root: Path) -> None:
    files = ImageFiles([root])
    assert files.find(Draft("b_png.rf.0123456789abcdef.png", (), aliases=("b.png",))) == [root / "b.png"]
    assert files.find(Draft("labels/val/002", (), any_suffix=True)) == [root / "val/002.JPG"]
    assert files.find(Draft("002", ())) == [root / "val/002.JPG"]


def test_the_folder_of_the_annotations_is_searched_too(root: Path) -> None:
    files = ImageFiles([root / "train"], [root])
    assert files.find(Draft("b.png", ())) == [root / "b.png"]
    assert files.find(Draft("002.jpg", ())) == []


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "deep" / "again").symlink_to(root)
    assert len(ImageFiles([root]).images()) == 7


def test_folders_that_are_not_there(root: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        ImageFiles([root / "b.png"])
    assert ImageFiles([root], [root / "none"]).described().startswith(f"{root} (7 image files, such as ")


def test_roboflows_names() -> None:
    assert original_name("a/IMG_1_jpg.rf.0123456789abcdef.jpg") == "IMG_1.jpg"
    assert original_name("IMG_1.jpg") == ""


def test_spellings_are_tried_from_the_likeliest() -> None:
    assert list(spellings("/data/local-files/?d=fig%2Fa.png")) == [
        ("/", "data", "local-files", "?d=fig%2Fa.png"),
        ("fig", "a.png"),
        ("/", "data", "local-files"),
        ("/", "data", "local-files", "?d=fig", "a.png"),
    ]
