"""Image files that are looked at before a training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raytune_m2f.data import ImageRecord
from raytune_m2f.data.images import inspect_headers


def record(file: Path, width: int = 20, height: int = 10, number: int = 1) -> ImageRecord:
    return ImageRecord(number, file, width, height, ())


def test_kinds_and_pages_are_counted(tmp_path: Path) -> None:
    images = {
        "rgb.png": Image.new("RGB", (20, 10)),
        "grey.png": Image.new("L", (20, 10)),
        "deep.png": Image.fromarray(np.zeros((10, 20), np.uint16)),
        "alpha.png": Image.new("RGBA", (20, 10)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    pages = [Image.new("RGB", (20, 10)) for _ in range(3)]
    pages[0].save(tmp_path / "pages.tiff", save_all=True, append_images=pages[1:])
    found = inspect_headers([record(path) for path in sorted(tmp_path.iterdir())])
    assert found.kinds == {"8-bit RGB": 2, "8-bit RGB with alpha": 1, "16-bit grey": 1, "8-bit grey": 1}
    assert (found.inspected, found.pages, found.problems) == (5, 1, ())


@pytest.mark.parametrize(
    ("width", "height", "says"),
    [(30, 10, "20 x 10 pixels, but the annotation file says 30 x 10"), (10, 20, "before the EXIF rotation")],
)
def test_other_sizes_are_problems(tmp_path: Path, width: int, height: int, says: str) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (problem,) = inspect_headers([record(tmp_path / "a.png", width, height, number=7)]).problems
    assert "(id 7)" in problem
    assert says in problem


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert inspect_headers([record(tmp_path / "a.jpg", 10, 20)]).problems == ()
    assert len(inspect_headers([record(tmp_path / "a.jpg", 20, 10)]).problems) == 1


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n broken"])
def test_what_is_no_image_is_a_problem(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    (problem,) = inspect_headers([record(tmp_path / "a.png"), record(tmp_path / "a.png")][:1]).problems
    assert f"image {tmp_path / 'a.png'} (id 1) cannot be read" in problem
    assert len(inspect_headers([record(tmp_path / "gone.png")]).problems) == 1


def test_of_many_some_are_looked_at_over_all(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    records = [record(tmp_path / "a.png", number=i) for i in range(100)]
    assert inspect_headers(records, limit=7).inspected == 7
    records[-5:] = [record(tmp_path / "gone.png", number=i) for i in range(5)]
    assert inspect_headers(records, limit=25).problems
    assert inspect_headers([]).inspected == 0
