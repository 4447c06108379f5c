"""The beginnings of image files: whether they are images, of the size that the annotations say, and of which kind.

A file that cannot be used would end a training where it first comes up, perhaps at the first evaluation. Of many images
some are looked at, evenly chosen; no pixel is decoded.

Image files of every kind as RGB arrays.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from raytune_m2f.data.records import ImageRecord
from raytune_m2f.errors import ConfigError, DatasetError

MOST = 200
TURNED = (5, 6, 7, 8)
"""EXIF orientations under which width and height change places."""
KINDS = {
    "1": "1-bit", "L": "8-bit grey", "LA": "8-bit grey with alpha", "P": "palette", "RGB": "8-bit RGB",
    "RGBA": "8-bit RGB with alpha", "CMYK": "CMYK", "I": "32-bit grey", "F": "floating-point",
}  # fmt: skip


@dataclass(frozen=True)
class Headers:
    """What was seen.

    Attributes:
        looked: files.
        kinds: how many are of which kind: "8-bit RGB", "16-bit grey" ...
        pages: files with more than one page, of which the first is used.
        problems: of files that cannot be used.
    """

    looked: int
    kinds: dict[str, int]
    pages: int
    problems: tuple[str, ...]


def look_at(records: Sequence[ImageRecord], most: int = MOST) -> Headers:
    """Open the image files, of more than `most` as many, evenly chosen."""
    count = min(len(records), most)
    chosen = [records[number * len(records) // count] for number in range(count)]
    kinds: Counter[str] = Counter()
    pages, problems = 0, []
    for record in chosen:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(record.file) as image:
                    kinds[_kind(image.mode)] += 1
                    pages += image.format in ("TIFF", "GIF") and getattr(image, "n_frames", 1) > 1
                    problems += _size_problem(record, image)
        except Image.DecompressionBombError:
            continue  # whether such an image may be read is said where it is read
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            problems.append(f"image {record.file} (id {record.id}) cannot be read: {error}")
    return Headers(len(chosen), dict(kinds.most_common()), pages, tuple(problems))


def _kind(mode: str) -> str:
    return "16-bit grey" if mode.startswith("I;16") else KINDS.get(mode, mode)


def _size_problem(record: ImageRecord, image: Image.Image) -> list[str]:
    width, height = image.size
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation) in TURNED
    except Exception:  # PIL raises anything here; such images are read as they are
        turned = False
    if turned:
        width, height = height, width
    if (width, height) == (record.width, record.height):
        return []
    exchanged = (height, width) == (record.width, record.height)
    hint = "; width and height are exchanged: were they taken before the EXIF rotation?" if exchanged else ""
    return [
        f"image {record.file} (id {record.id}) is {width} x {height} pixels, but the annotation file says "
        f"{record.width} x {record.height}{hint}"
    ]


RgbImage = npt.NDArray[np.uint8]
"""(H, W, 3), 0 to 255."""


LIMIT = "RAYTUNE_M2F_MAX_MEGAPIXELS"
"""Environment variable: the largest image that is read."""
MEGAPIXELS = 178.0
"""Without it. Above, Pillow takes an image for a decompression bomb."""
_NOT_PAGES = {"MPO", "PSD"}  # their further images are previews, depths, layers

log = logging.getLogger(__name__)
_pillow = threading.Lock()
_PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS
_told: set[Path] = set()
"""Folders that the log has spoken of."""


def read_image(path: Path, *, max_megapixels: float | None = None) -> RgbImage:
    """Read an image as RGB, EXIF rotation applied; of several pages the first, which the log says once a folder.

    Grey, palette and CMYK are converted and alpha is dropped, as PIL and detectron2 do. 16-bit grey is scaled
    by 1/257 (65535 becomes 255), where detectron2 would clip all above 255 to white.

    Args:
        max_megapixels: a larger one is refused; by default what the environment variable `LIMIT` says, or `MEGAPIXELS`.

    Returns:
        (H, W, 3) uint8, writable.

    Raises:
        DatasetError: missing, damaged, cut short, no image, too large, or of floating-point values.
    """
    with _opened(path, max_megapixels) as image:
        return rgb_pixels(image)


def rgb_pixels(image: Image.Image) -> RgbImage:
    """An opened image as `read_image` reads it: (H, W, 3) uint8.

    Raises:
        ValueError: its values are floating-point numbers, or have more than 16 bits.
    """
    return _to_rgb(_upright(image))


def check_image(path: Path, *, max_megapixels: float | None = None) -> None:
    """Read the beginning of an image: that it is one, and not too large. Raises DatasetError as `read_image` does."""
    with _opened(path, max_megapixels):
        pass


def megapixel_limit() -> float:
    """The largest image that is read, in megapixels.

    Raises:
        ConfigError: the environment variable `LIMIT` is no number above 0.
    """
    text = os.environ.get(LIMIT, "")
    try:
        limit = float(text or MEGAPIXELS)
    except ValueError:
        limit = -1.0
    if not limit > 0:
        raise ConfigError(f"environment variable {LIMIT}: got {text!r}, allowed: a number of megapixels above 0")
    return limit


@contextmanager
def _opened(path: Path, max_megapixels: float | None) -> Iterator[Image.Image]:
    limit = megapixel_limit() if max_megapixels is None else max_megapixels
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError("it is a folder" if path.is_dir() else "it is no file but a pipe or a device")
        with _open(path) as image:
            _require_size(image, limit)
            _note_pages(path, image)
            yield image
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, Image.DecompressionBombError) as error:
        raise DatasetError(f"image {path} cannot be read: {_said(error)}") from error


def _open(path: Path) -> Image.Image:
    """By Pillow without its own limit, unless somebody has lowered that."""
    with _pillow:
        before = Image.MAX_IMAGE_PIXELS
        try:
            if before == _PILLOWS_LIMIT:
                Image.MAX_IMAGE_PIXELS = None
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _require_size(image: Image.Image, limit: float) -> None:
    size = image.width * image.height / 1e6
    if size > limit:
        raise ValueError(
            f"it has {size:.3g} megapixels ({image.width} x {image.height}), at most {limit:g} are allowed (a limit "
            f"against decompression bombs): cut it into tiles, or raise the limit by {LIMIT}={math.ceil(size)} in the "
            "environment, or --max-megapixels of predict and evaluate"
        )


def _note_pages(path: Path, image: Image.Image) -> None:
    pages = getattr(image, "n_frames", 1)
    if pages > 1 and image.format not in _NOT_PAGES:
        _warn_of_pages(path.parent, path.name, pages)


def _warn_of_pages(folder: Path, name: str, pages: int) -> None:
    if folder in _told:
        return
    _told.add(folder)
    log.warning(
        "image %s has %d pages (or frames): the first is used, the others are not; others of this folder are not "
        "named. Save each page as a file of its own to use it.",
        folder / name,
        pages,
    )


def _said(error: Exception) -> str:
    """What Pillow says, without the path and its own name for a file object."""
    if isinstance(error, UnidentifiedImageError):
        return "it is no image of a known kind"
    return str(error) or type(error).__name__


def read_record(record: ImageRecord, *, max_megapixels: float | None = None) -> RgbImage:
    """Read a record's image.

    Returns:
        (height, width, 3) uint8.

    Raises:
        DatasetError: as `read_image`, or the size is not the annotation file's.
    """
    image = read_image(record.file, max_megapixels=max_megapixels)
    height, width = image.shape[:2]
    if (height, width) != (record.height, record.width):
        hint = (
            "; width and height are exchanged: were they taken before the EXIF rotation?"
            if (width, height) == (record.height, record.width)
            else ""
        )
        raise DatasetError(
            f"image {record.file} (id {record.id}) is {width} x {height} pixels, "
            f"but the annotation file says {record.width} x {record.height}{hint}"
        )
    return image


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a damaged file must not be taken for a damaged EXIF block
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # `exif_transpose` would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL raises anything here; detectron2 reads such images unrotated, too (its issue 1885)
        return image


def _to_rgb(image: Image.Image) -> RgbImage:
    if image.mode.startswith("I"):
        return _deep_grey_to_rgb(np.asarray(image))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown; convert it to 8 bits")
    if image.mode == "L":
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)  # with no whole image of PIL's in between
    image.info.pop("transparency", None)  # dropped like an alpha channel, without PIL's warning
    return np.array(image.convert("RGB") if image.mode != "RGB" else image)


def _deep_grey_to_rgb(grey: npt.NDArray[np.generic]) -> RgbImage:
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits; convert it to 8 or 16 bits")
    return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
