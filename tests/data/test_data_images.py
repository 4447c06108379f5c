"""Image files of every kind, and the headers that are inspected before a training."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from raytune_m2f.data import ImageRecord, images, read_image
from raytune_m2f.data.images import inspect_headers, read_record, upright_size
from raytune_m2f.errors import ConfigError, DatasetError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@pytest.fixture
def pixels() -> Pixels:
    """(6, 9, 3), all different."""
    return np.arange(6 * 9 * 3, dtype=np.uint8).reshape(6, 9, 3)


def test_rgb_is_read_as_it_is_and_writable(pixels: Pixels, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(image, pixels)
    image[0] = 0


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(pixels: Pixels, tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(pixels).convert(mode)
    source.save(tmp_path / "a.tif")
    image = read_image(tmp_path / "a.tif")
    assert image.shape == (6, 9, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, np.asarray(source.convert("RGB")))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    assert abs(read_image(tmp_path / "a.jpg").astype(int) - (200, 40, 90)).max() <= 3


def test_transparent_palette_gives_the_palette_colours(tmp_path: Path) -> None:
    source = Image.new("P", (4, 4), 1)
    source.putpalette([0, 0, 0, 10, 200, 30])
    source.save(tmp_path / "a.png", transparency=bytes([128, 0]))
    assert (read_image(tmp_path / "a.png") == (10, 200, 30)).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}")[0, :, 1], [0, 1, 128, 255])


def test_deeper_pixels_are_refused_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "int.tif")
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(DatasetError, match=r"int\.tif cannot be read: .* more than 16 bits"):
        read_image(tmp_path / "int.tif")
    with pytest.raises(DatasetError, match=r"float\.tif cannot be read: .* floating-point"):
        read_image(tmp_path / "float.tif")


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda a: np.rot90(a)),
        (9, lambda a: a),
    ],
)
def test_exif_rotation(pixels: Pixels, tmp_path: Path, orientation: int, turned: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), turned(pixels))
    assert upright_size(tmp_path / "a.png") == (*turned(pixels).shape[1::-1], orientation)


def test_damaged_exif_is_ignored(pixels: Pixels, tmp_path: Path) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense, not a TIFF header")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), pixels)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_image_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"cut.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DatasetError, match=rf"image .*cut\.{suffix} cannot be read"):
        read_image(file)


def test_no_image_at_all(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "absent.png", "."):
        for read in (read_image, upright_size):
            with pytest.raises(DatasetError, match=r"image .* cannot be read"):
                read(tmp_path / name)


def test_a_limit_is_named_and_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (2000, 1500)).save(tmp_path / "sat.png")
    said = r"sat\.png cannot be read: it has 3 megapixels \(2000 x 1500\), at most 2\.5 are allowed.* tiles, .* {}=3 in"
    with pytest.raises(DatasetError, match=said.format(images.LIMIT)):
        read_image(tmp_path / "sat.png", max_megapixels=2.5)
    monkeypatch.setenv(images.LIMIT, "2.5")
    with pytest.raises(DatasetError, match=said.format(images.LIMIT)):
        images.check_image(tmp_path / "sat.png")
    monkeypatch.setenv(images.LIMIT, "3")
    assert read_image(tmp_path / "sat.png").shape == (1500, 2000, 3)
    for text in ("many", "0", "-1", "nan"):
        monkeypatch.setenv(images.LIMIT, text)
        with pytest.raises(ConfigError, match=f"{images.LIMIT}: got '{text}'"):
            read_image(tmp_path / "sat.png")


def test_ours_is_the_only_limit(tmp_path: Path) -> None:
    """Pillow's own would warn from half of ours on, and refuse without saying what is allowed."""
    Image.new("1", (12000, 10000)).save(tmp_path / "large.png")
    images.check_image(tmp_path / "large.png")
    Image.new("1", (20000, 10000)).save(tmp_path / "larger.png")
    with pytest.raises(DatasetError, match=r"200 megapixels \(20000 x 10000\), at most 178"):
        images.check_image(tmp_path / "larger.png")
    images.check_image(tmp_path / "larger.png", max_megapixels=200)
    assert Image.MAX_IMAGE_PIXELS is not None


@pytest.mark.parametrize("suffix", ["tif", "gif", "png", "webp"])
def test_pages_that_are_not_used_are_said_once_a_folder(
    pixels: Pixels, tmp_path: Path, caplog: pytest.LogCaptureFixture, suffix: str
) -> None:
    pages = [Image.fromarray(np.full((6, 9, 3), 80 * number, np.uint8)) for number in range(3)]
    for name in ("a", "b"):
        pages[1].save(tmp_path / f"{name}.{suffix}", save_all=True, append_images=[pages[2], pages[0]])
    Image.fromarray(pixels).save(tmp_path / "one.tif")
    read_image(tmp_path / "one.tif")
    assert caplog.text == ""
    for name in ("a", "b"):
        assert abs(read_image(tmp_path / f"{name}.{suffix}").astype(int) - 80).max() <= 3
    assert caplog.text.count("3 pages") == 1
    assert f"a.{suffix} has 3 pages (or frames): the first is used" in caplog.text


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "empty.png").touch()
    for name, what in (("pipe.png", "a pipe"), ("folder.png", "folder"), ("empty.png", "of a known kind")):
        with pytest.raises(DatasetError, match=rf"{name} cannot be read: it is .*{what}"):
            read_image(tmp_path / name)


def test_decompression_bomb_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DatasetError, match=r"bomb\.png cannot be read: .*decompression bomb"):
        read_image(tmp_path / "bomb.png")


def test_size_must_be_the_annotation_files(pixels: Pixels, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, exif=exif)
    upright = ImageRecord(id=4, file=file, width=6, height=9, annotations=())
    assert read_record(upright).shape == (9, 6, 3)
    with pytest.raises(DatasetError, match=r"a\.png \(id 4\) is 6 x 9 pixels, .* says 9 x 6; .* EXIF"):
        read_record(replace(upright, width=9, height=6))
    with pytest.raises(DatasetError, match=r"says 7 x 9$"):
        read_record(replace(upright, width=7))


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


def test_headers_show_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `read_image` would refuse after hours is a problem at once."""
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "float.tif")
    Image.new("L", (2000, 1000)).save(tmp_path / "large.png")
    monkeypatch.setenv("RAYTUNE_M2F_MAX_MEGAPIXELS", "1")
    records = [ImageRecord(1, tmp_path / "float.tif", 8, 8, ()), ImageRecord(2, tmp_path / "large.png", 2000, 1000, ())]
    floating, large = inspect_headers(records).problems
    assert "floating-point" in floating
    assert "2 megapixels" in large
    for record in records:
        with pytest.raises(DatasetError):
            upright_size(record.file)
