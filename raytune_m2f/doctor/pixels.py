"""Some image files, decoded once for all checks of them: can they be read, are they of one colour, are two the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytune_m2f.data import CocoDataset, ImageRecord, read_image
from raytune_m2f.errors import DatasetError

MOST = 1000
"""Images of a data set that are decoded at most."""
MOST_MEGAPIXELS = 1500.0
"""Of these images together: some ten seconds on a CPU core."""
SIDE = 32
"""Pixels of a thumbnail's side."""
FLAT = 2.0
"""Levels of 255: the spread of a thumbnail below which it shows nothing that could be compared."""
THREADS = 8


@dataclass(frozen=True)
class Look:
    """One image file, looked at.

    Attributes:
        record: its image.
        problem: why it cannot be read; empty if it can.
        one_colour: whether all its pixels are the same.
        digest: of the file's bytes.
        thumbnail: (SIDE * SIDE,) grey, mean 0 and length 1; None if it cannot be read, or shows next to nothing.
    """

    record: ImageRecord
    problem: str = ""
    one_colour: bool = False
    digest: bytes = b""
    thumbnail: NDArray[np.float32] | None = None


def look_at(dataset: CocoDataset) -> list[Look]:
    """Decode images of a data set at even distances, MOST and MOST_MEGAPIXELS at most; always the same ones."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(_look, sample_of(dataset.records)))


def sample_of(records: Sequence[ImageRecord]) -> list[ImageRecord]:
    """As many records as `look_at` decodes, one at least."""
    mean = sum(record.width * record.height for record in records) / 1e6 / max(len(records), 1)
    count = min(len(records), MOST, max(1, int(MOST_MEGAPIXELS / max(mean, 1e-6))))
    return [records[number * len(records) // count] for number in range(count)]


def _look(record: ImageRecord) -> Look:
    try:
        pixels = read_image(record.file)
        digest = hashlib.blake2b(record.file.read_bytes(), digest_size=16).digest()
    except DatasetError as error:
        return Look(record, problem=str(error))
    except OSError as error:
        return Look(record, problem=f"image {record.file} cannot be read: {error.strerror}")
    one_colour = bool((pixels == pixels[0, 0]).all())
    grey = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(grey, np.float32).ravel()
    values -= values.mean()
    spread = float(values.std())
    return Look(record, "", one_colour, digest, values / (spread * SIDE) if spread > FLAT else None)


def same_pictures(first: Sequence[Look], other: Sequence[Look], alike: float) -> list[tuple[Look, Look, bool]]:
    """Pairs of different files, one of each list, that show the same picture; and whether all their bytes agree.

    Two thumbnails are compared by their correlation: re-encoding, resizing and brightness change it little, another
    place or another object in the same place much more. The best partner of each of `other` is given.
    """
    found = []
    by_digest = {look.digest: look for look in first if not look.problem}
    shown = [look for look in first if look.thumbnail is not None]
    table = np.array([look.thumbnail for look in shown], np.float32).reshape(-1, SIDE * SIDE)
    for look in other:
        twin = by_digest.get(look.digest)
        if twin is not None and not look.problem:
            if not _same_file(twin, look):
                found.append((twin, look, True))
        elif look.thumbnail is not None and len(shown):
            likeness = table @ look.thumbnail
            best = int(likeness.argmax())
            if likeness[best] >= alike and not _same_file(shown[best], look):
                found.append((shown[best], look, False))
    return found


def _same_file(first: Look, other: Look) -> bool:
    return os.path.normpath(first.record.file) == os.path.normpath(other.record.file)
