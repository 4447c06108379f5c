"""The beginnings of image files: whether they are images, of the size that the annotations say, and of which kind.

A file that cannot be used would end a training where it first comes up, perhaps at the first evaluation. Of many images
some are looked at, evenly chosen; no pixel is decoded.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import ExifTags, Image

from raytune_m2f.data.records import ImageRecord

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
