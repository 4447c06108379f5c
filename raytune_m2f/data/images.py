"""Image files of every kind as RGB arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from raytune_m2f.data.records import ImageRecord
from raytune_m2f.errors import DatasetError

RgbImage = npt.NDArray[np.uint8]
"""(H, W, 3), 0 to 255."""


def read_image(path: Path) -> RgbImage:
    """Read an image as RGB, EXIF rotation applied.

    Grey, palette and CMYK are converted and alpha is dropped, as PIL and detectron2 do. 16-bit grey is scaled
    by 1/257 (65535 becomes 255), where detectron2 would clip all above 255 to white.

    Returns:
        (H, W, 3) uint8, writable.

    Raises:
        DatasetError: missing, damaged, cut short, no image, too large for PIL, or of floating-point values.
    """
    try:
        with Image.open(path) as image:
            return _to_rgb(_upright(image))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DatasetError(f"image {path} cannot be read: {error}") from error


def read_record(record: ImageRecord) -> RgbImage:
    """Read a record's image.

    Returns:
        (height, width, 3) uint8.

    Raises:
        DatasetError: as `read_image`, or the size is not the annotation file's.
    """
    image = read_image(record.file)
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
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL raises anything here; detectron2 reads such images unrotated, too (its issue 1885)
        return image


def _to_rgb(image: Image.Image) -> RgbImage:
    if image.mode.startswith("I"):
        return _deep_grey_to_rgb(np.asarray(image))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown; convert it to 8 bits")
    image.info.pop("transparency", None)  # dropped like an alpha channel, without PIL's warning
    return np.array(image.convert("RGB"))


def _deep_grey_to_rgb(grey: npt.NDArray[np.generic]) -> RgbImage:
    values = grey.astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have more than 16 bits; convert it to 8 or 16 bits")
    return np.repeat(((values + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
