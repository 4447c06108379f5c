"""Data, as the image files say it: sizes, EXIF rotation, files that cannot be read, duplicates across the split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytune_m2f.data import CocoDataset, ImageRecord, read_image
from raytune_m2f.data.images import inspect_headers
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.labels import noted
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import DatasetError, first_of

ALIKE = 0.96
"""Correlation of two thumbnails of the same picture. Of 900 pictures of seven data sets no two have more than 0.94;
the same ones re-encoded at a quality of 40 to 90 and resized to 0.3 to 2 have 0.975 and more."""
SHOWN = 5
UPRIGHT = (
    "Correct the size in the annotation file. If the annotations were drawn on the image as it is stored, without its "
    "EXIF rotation: remove the tag (exiftool -Orientation= FILE), and the size fits"
)


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


# Checks


def _files(subject: Subject) -> Iterator[Finding]:
    remedy = f"Replace these files, or take their images out of the annotation file. {UPRIGHT}."
    found = noted(FILES, subject, remedy)
    told = []
    for role, dataset in subject.parts:
        headers = inspect_headers(dataset.records)
        told.append(f"{role} {headers.inspected} of {len(dataset)} inspected, {', '.join(headers.kinds) or 'none'}")
        if headers.turned:
            told[-1] += f", {headers.turned} turned by their EXIF tag, as they are read"
        if headers.problems and not found:  # of an engine that does not inspect them itself
            what = f"{role}: of {headers.inspected} images inspected, {len(headers.problems)} are of no use:"
            seen = "\n  ".join([what, *first_of(headers.problems, SHOWN)])
            found.append(FILES.problem(seen, "Training or evaluation would end at the first of them", remedy))
    yield from found or [FILES.ok(f"images: {'; '.join(told) or 'nothing to look at'}")]


def _looks(subject: Subject) -> dict[str, list[Look]]:
    """Of training and test set, the images that are decoded."""
    return {role: look_at(dataset) for role, dataset in subject.parts}


def _pixels(subject: Subject) -> Iterator[Finding]:
    found, told = [], []
    for role, dataset in subject.parts:
        looks = subject.once(_looks)[role]
        told.append(f"{role} {len(looks)} of {len(dataset)}")
        if broken := [look.problem for look in looks if look.problem]:
            found.append(
                PIXELS.problem(
                    "\n  ".join(
                        [
                            f"{role}: {len(broken)} of {len(looks)} images that were decoded cannot be read:",
                            *first_of(broken, SHOWN),
                        ]
                    ),
                    "Training or evaluation ends at the first of them",
                    "Replace these files, or take their images out of the annotation file.",
                    count=len(broken),
                )
            )
        if flat := [look for look in looks if look.one_colour]:
            labelled = sum(bool(look.record.instances) for look in flat)
            found.append(
                PIXELS.warning(
                    f"{role}: {len(flat)} of {len(looks)} images that were decoded are of one colour, {labelled} of "
                    f"them with instances: {_names(flat)}",
                    "There is nothing to see in them",
                    "Replace these files, or take their images out of the annotation file.",
                    count=len(flat),
                )
            )
    yield from found or [PIXELS.ok(f"decoded: {', '.join(told) or 'nothing'}; all can be read")]


def _duplicates(subject: Subject) -> Iterator[Finding]:
    found = noted(DUPLICATES, subject)
    looks = subject.once(_looks) if subject.parts else {"train": [], "test": []}
    pairs = same_pictures(looks["train"], looks["test"], ALIKE)
    sizes = [f"{len(looks[role])} of {len(dataset)} {role} images" for role, dataset in subject.parts]
    compared = " with ".join(sizes) or "nothing to look at"
    if pairs:
        equal = sum(bytes_agree for _, _, bytes_agree in pairs)
        kinds = {"byte for byte": equal, "by their look": len(pairs) - equal}
        kind = ", ".join(f"{count} {how}" for how, count in kinds.items() if count)
        examples = [f"{_short(test)} is {_short(train)}" for train, test, _ in pairs[:SHOWN]]
        found.append(
            DUPLICATES.warning(
                f"{len(pairs)} test images are also training images under another name ({kind}; compared: {compared}): "
                f"{', '.join(examples)}",
                "The score then says little of other images",
                "Take them out of one of the two sets; keep the frames of a video, or the cuts of an image, together.",
                pairs=[[str(train.record.file), str(test.record.file)] for train, test, _ in pairs[:100]],
            )
        )
    yield from found or [DUPLICATES.ok(f"no picture is in both sets; compared: {compared}")]


def _short(look: Look) -> str:
    return "/".join(look.record.file.parts[-2:])


def _names(looks: Sequence[Look]) -> str:
    return ", ".join(first_of([look.record.file.name for look in looks], SHOWN))


FILES = Check("data/files", "are the image files there, and of the size that the annotations say?", _files, quick=True)
PIXELS = Check("data/pixels", "can the images be read to the end?", _pixels)
DUPLICATES = Check("data/duplicates", "is a test image also a training image?", _duplicates)

CHECKS: tuple[Check, ...] = (FILES, PIXELS, DUPLICATES)
