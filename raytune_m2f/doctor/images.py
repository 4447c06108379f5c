"""Data, as the image files say it: sizes, EXIF rotation, files that cannot be read, duplicates across the split."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from raytune_m2f.data import CocoDataset, ImageRecord, TrainSample, read_image
from raytune_m2f.data.images import RgbImage, inspect_headers
from raytune_m2f.data.outlines import edge_ratio
from raytune_m2f.doctor.excerpt import first_samples
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
OUTLINED_IMAGES, OUTLINED_SAMPLES, OUTLINES_OF_IMAGE = 40, 16, 6
"""Images of a set, training samples, and masks of each, whose outlines are compared with edges."""
FEWEST_OUTLINES = 24
FOLLOWING, BY_CHANCE = 0.7, 0.6
"""Share of the outlines that follow an edge. Of seven data sets it is 0.89 to 1; of masks of another image, mirrored or
moved ones 0.39 to 0.66."""
Drawn = tuple[RgbImage, NDArray[np.bool_]]
"""An image and a mask of it."""
T = TypeVar("T")


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


def _outlines(subject: Subject) -> Iterator[Finding]:
    """Of each set as its files say it, and of training as the network sees it."""
    found, told, values = [], [], {}
    kinds = {role: _drawn(dataset) for role, dataset in subject.parts}
    kinds["training, as the network sees it"] = _augmented(subject)
    for what, pairs in kinds.items():
        ratios = [ratio for image, mask in pairs if (ratio := edge_ratio(image, mask)) is not None]
        if len(ratios) < FEWEST_OUTLINES:
            told.append(f"{what} {len(ratios)} outlines, too few")
            continue
        follow = sum(ratio > 1 for ratio in ratios) / len(ratios)
        values[what] = {"outlines": len(ratios), "follow": round(follow, 3)}
        told.append(f"{what} {follow:.0%} of {len(ratios)}")
        if follow < FOLLOWING:
            make = OUTLINES.problem if follow < BY_CHANCE else OUTLINES.warning
            found.append(
                make(
                    f"{what}: only {follow:.0%} of {len(ratios)} outlines lie on edges of their image more than beside "
                    "them; of outlines that have nothing to do with the image it is half",
                    "Masks seem to be of other images, mirrored, turned or moved: a network learns nothing from them, "
                    "or to predict beside the objects",
                    "Draw some over their images; look at file names and ids, EXIF rotation, size, and at your own "
                    "augmentation.",
                    **values[what],
                )
            )
    yield from found or [OUTLINES.ok(f"outlines that follow the edges of their images: {'; '.join(told)}", **values)]


def _drawn(dataset: CocoDataset) -> Iterator[Drawn]:
    """Some masks of a data set on their images; images that cannot be read are the matter of data/pixels."""
    records = [record for record in dataset.records if record.instances]
    for record in _at_even_distances(records, OUTLINED_IMAGES):
        with suppress(DatasetError):
            image = read_image(record.file)
            if image.shape[:2] != (record.height, record.width):
                continue
            for annotation in _at_even_distances(record.instances, OUTLINES_OF_IMAGE):
                yield image, annotation.mask(record.height, record.width)


def _augmented(subject: Subject) -> Iterator[Drawn]:
    """Some masks of training samples, as they go into the loss."""
    with suppress(DatasetError):
        for sample in islice(first_samples(subject.engine, subject.config), OUTLINED_SAMPLES):
            if isinstance(sample, TrainSample):
                image = sample.image.permute(1, 2, 0).numpy()
                for mask in _at_even_distances(list(sample.target.masks.numpy()), OUTLINES_OF_IMAGE):
                    yield image, mask


def _at_even_distances(items: Sequence[T], most: int) -> list[T]:
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]


def _short(look: Look) -> str:
    return "/".join(look.record.file.parts[-2:])


def _names(looks: Sequence[Look]) -> str:
    return ", ".join(first_of([look.record.file.name for look in looks], SHOWN))


FILES = Check("data/files", "are the image files there, and of the size that the annotations say?", _files, quick=True)
PIXELS = Check("data/pixels", "can the images be read to the end?", _pixels)
DUPLICATES = Check("data/duplicates", "is a test image also a training image?", _duplicates)
OUTLINES = Check("data/outlines", "do the masks follow what the images show?", _outlines)

CHECKS: tuple[Check, ...] = (FILES, PIXELS, OUTLINES, DUPLICATES)
