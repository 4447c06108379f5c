"""Image files of every kind as RGB arrays, and a look at their headers before anything trains.

A file that cannot be used would end a training where it first comes up, perhaps at the first evaluation. So
`inspect_headers` opens a sample of the files beforehand; it decodes no pixel.
"""

from __future__ import annotations

import logging
import math
import os
import threading
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

RgbImage = npt.NDArray[np.uint8]
"""(H, W, 3), 0 to 255."""
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
"""Files with these, in lower case, count as the images of a folder."""
LIMIT = "RAYTUNE_M2F_MAX_MEGAPIXELS"
"""Environment variable: the largest image that is read."""
MEGAPIXELS = 178.0
"""The default of `LIMIT`. Above it Pillow takes an image for a decompression bomb."""
SAMPLE = 200
"""Files that `inspect_headers` opens at most."""
KINDS = {
    "1": "1-bit", "L": "8-bit grey", "LA": "8-bit grey with alpha", "P": "palette", "RGB": "8-bit RGB",
    "RGBA": "8-bit RGB with alpha", "CMYK": "CMYK", "I": "32-bit grey", "F": "floating-point",
}  # fmt: skip
FLOATING_POINT = "its pixels are floating-point numbers, whose range is unknown; convert it to 8 bits"
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
_NOT_PAGES = ("MPO", "PSD")  # their further images are previews, depths, layers
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, OverflowError, Image.DecompressionBombError)

log = logging.getLogger(__name__)
_pillow = threading.Lock()
_PILLOWS_LIMIT = Image.MAX_IMAGE_PIXELS
_warned_folders: set[Path] = set()


def read_image(path: Path, *, page: int | None = None, max_megapixels: float | None = None) -> RgbImage:
    """Read an image as RGB, EXIF rotation applied; of several pages the first, which the log says once per folder.

    Grey, palette and CMYK are converted and alpha is dropped, as PIL and detectron2 do. 16-bit grey is scaled
    by 1/257 (65535 becomes 255), where detectron2 would clip all above 255 to white.

    Args:
        page: of several the one to read, from 0 on; then the log says nothing.
        max_megapixels: a larger one is refused; by default what the environment variable `LIMIT` says, or `MEGAPIXELS`.

    Returns:
        (H, W, 3) uint8, writable.

    Raises:
        DatasetError: missing, damaged, cut short, no image, too large, or of floating-point values.
    """
    with _opened(path, max_megapixels, page) as image:
        return rgb_pixels(image)


def pages_of(path: Path) -> tuple[int, int]:
    """The number of pages (or frames) of an image file, at least 1, and the pixels of the first; none is decoded.

    Raises:
        DatasetError: as `read_image`, where the header shows it.
    """
    with _opened(path, None, 0) as image:
        return _page_count(image), image.width * image.height


def rgb_pixels(image: Image.Image) -> RgbImage:
    """An opened image as `read_image` reads it: (H, W, 3) uint8, writable.

    Raises:
        ValueError: its values are floating-point numbers, or have more than 16 bits.
    """
    image = _upright(image)
    if image.mode.startswith("I"):
        return _deep_grey_to_rgb(np.asarray(image))
    if image.mode == "F":
        raise ValueError(FLOATING_POINT)
    if image.mode == "L":
        return np.repeat(np.asarray(image)[..., None], 3, axis=2)  # with no whole image of PIL's in between
    image.info.pop("transparency", None)  # dropped like an alpha channel, without PIL's warning
    return np.array(image.convert("RGB") if image.mode != "RGB" else image)


def check_image(path: Path, *, max_megapixels: float | None = None) -> None:
    """Read the header of an image: that it is one, and not too large. Raises DatasetError as `read_image` does."""
    with _opened(path, max_megapixels):
        pass


def upright_size(path: Path) -> tuple[int, int, int]:
    """Width and height of an image as `read_image` gives it, and the EXIF orientation (1 to 8); no pixel is decoded.

    Raises:
        DatasetError: as `read_image`, where the header shows it.
    """
    with _opened(path, None) as image:
        orientation = _orientation(image)
        width, height = image.size[::-1] if orientation in _TRANSPOSED else image.size
        return width, height, orientation or 1


def read_record(record: ImageRecord, *, max_megapixels: float | None = None) -> RgbImage:
    """Read a record's image: (height, width, 3) uint8.

    Raises:
        DatasetError: as `read_image`, or the size is not the annotation file's.
    """
    image = read_image(record.file, max_megapixels=max_megapixels)
    if mismatch := _size_mismatch(record, image.shape[1], image.shape[0]):
        raise DatasetError(mismatch)
    return image


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


@dataclass(frozen=True)
class Headers:
    """What the headers of some image files say.

    Attributes:
        inspected: number of files opened.
        kinds: how many are of which kind: "8-bit RGB", "16-bit grey" ...
        pages: files with more than one page, of which the first is used.
        turned: files whose EXIF orientation says that they are not upright, which is mended when they are read.
        problems: one line for each file that cannot be used.
    """

    inspected: int
    kinds: dict[str, int]
    pages: int
    turned: int
    problems: tuple[str, ...]


def inspect_headers(records: Sequence[ImageRecord], limit: int = SAMPLE) -> Headers:
    """Open the image files, of more than `limit` a sample at even distances; no pixel is decoded."""
    count, largest = min(len(records), limit), megapixel_limit()
    kinds: Counter[str] = Counter()
    pages, turned, problems = 0, 0, []
    for record in (records[number * len(records) // count] for number in range(count)):
        try:
            with _open(record.file) as image:
                kinds["16-bit grey" if image.mode.startswith("I;16") else KINDS.get(image.mode, image.mode)] += 1
                pages += _page_count(image) > 1
                orientation = _orientation(image)
                turned += orientation not in (None, 1)
                size = image.size[::-1] if orientation in _TRANSPOSED else image.size
                _require_readable(image, largest)
            if mismatch := _size_mismatch(record, *size):
                problems.append(mismatch)
        except _UNREADABLE as error:
            problems.append(f"image {record.file} (id {record.id}) cannot be read: {error}")
    return Headers(count, dict(kinds.most_common()), pages, turned, tuple(problems))


def _size_mismatch(record: ImageRecord, width: int, height: int) -> str:
    """The error message for an image of another size than its record's; empty if they are the same."""
    if (width, height) == (record.width, record.height):
        return ""
    exchanged = (height, width) == (record.width, record.height)
    hint = "; width and height are exchanged: were they taken before the EXIF rotation?" if exchanged else ""
    return (
        f"image {record.file} (id {record.id}) is {width} x {height} pixels, but the annotation file says "
        f"{record.width} x {record.height}{hint}"
    )


@contextmanager
def _opened(path: Path, max_megapixels: float | None, page: int | None = None) -> Iterator[Image.Image]:
    limit = megapixel_limit() if max_megapixels is None else max_megapixels
    try:
        with _open(path) as image:
            if page:
                image.seek(page)
            _require_readable(image, limit)
            if page is None and _page_count(image) > 1 and path.parent not in _warned_folders:
                _warned_folders.add(path.parent)
                log.warning(
                    "image %s has %d pages (or frames): the first is used, the others are not; other such images of "
                    "this folder are not named. Save each page as a file of its own to use it.",
                    path,
                    _page_count(image),
                )
            yield image
    except _UNREADABLE as error:
        reason = "it is no image of a known kind" if isinstance(error, UnidentifiedImageError) else str(error)
        which = f"{path}, page {page + 1}," if page else f"{path}"
        raise DatasetError(f"image {which} cannot be read: {reason or type(error).__name__}") from error


def _open(path: Path) -> Image.Image:
    """Open with Pillow, without its own limit unless somebody has lowered that."""
    if path.exists() and not path.is_file():  # opening a pipe would block
        raise ValueError("it is a folder" if path.is_dir() else "it is no file but a pipe or a device")
    with _pillow:
        before = Image.MAX_IMAGE_PIXELS
        try:
            if before == _PILLOWS_LIMIT:
                Image.MAX_IMAGE_PIXELS = None
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _require_readable(image: Image.Image, limit: float) -> None:
    """Raises ValueError, as far as the header shows it, if it has too many pixels, or floating-point ones."""
    if image.mode == "F":
        raise ValueError(FLOATING_POINT)
    size = image.width * image.height / 1e6
    if size > limit:
        raise ValueError(
            f"it has {size:.3g} megapixels ({image.width} x {image.height}), at most {limit:g} are allowed (a limit "
            f"against decompression bombs): cut it into tiles, or raise the limit by {LIMIT}={math.ceil(size)} in the "
            "environment, or --max-megapixels of predict and evaluate"
        )


def _page_count(image: Image.Image) -> int:
    return 1 if image.format in _NOT_PAGES else getattr(image, "n_frames", 1)


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; None if the EXIF block is damaged."""
    try:
        orientation: int = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation
    except Exception:  # PIL raises anything here; detectron2 reads such images unrotated, too (its issue 1885)
        return None


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # a damaged file must not be taken for a damaged EXIF block
    if _orientation(image) in (None, 1):
        return image  # `exif_transpose` would copy it
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # as in `_orientation`
        return image


def _deep_grey_to_rgb(grey: npt.NDArray[np.generic]) -> RgbImage:
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits; convert it to 8 or 16 bits")
    return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
