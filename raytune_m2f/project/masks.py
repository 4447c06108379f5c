"""The objects of an export that can be learnt from: their masks checked, measured, and named where they cannot be."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from pycocotools import mask as mask_utils

from raytune_m2f.data.images import IMAGE_SUFFIXES
from raytune_m2f.data.masks import Segmentation, parse_segmentation, to_rle
from raytune_m2f.errors import InputError, first_of
from raytune_m2f.project.export import Export, Item, Picture
from raytune_m2f.storage.text import text_problem

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Masked:
    """An object with a mask.

    Attributes:
        segmentation: checked, in memory's form.
        box: x, y, width, height of the mask [pixels].
        area: of the mask [pixels].
    """

    item: Item
    segmentation: Segmentation
    box: tuple[float, float, float, float]
    area: float


@dataclass(frozen=True, slots=True)
class Photo:
    """An image and its objects with a mask.

    Attributes:
        name: its path in the common folder of all images, with /.
        things: its objects, crowds too.
    """

    picture: Picture
    name: str
    things: tuple[Masked, ...]

    @property
    def instances(self) -> list[Masked]:
        """Its objects that are no crowds."""
        return [thing for thing in self.things if not thing.item.crowd]


@dataclass(frozen=True)
class Masks:
    """What of an export can be learnt from.

    Attributes:
        root: the folder that holds all images, absolute.
        photos: by name, whatever the order of the export.
        left_out: what was left out, each with its number.
    """

    root: Path
    photos: tuple[Photo, ...]
    left_out: tuple[str, ...]


def masks_of(export: Export) -> Masks:
    """Check and measure every object; an image file that the export has twice is one image with the objects of both.

    Raises:
        InputError: no object has a mask, or a file is in two parts of the export.
    """
    pictures = _joined(export.pictures)
    if not pictures:
        raise InputError(f"{_files(export)}: no image in it")
    root = _common_folder(picture.file for picture in pictures)
    reasons: dict[str, list[str]] = {}
    photos = [Photo(picture, _name(picture, root), tuple(_masked(picture, reasons))) for picture in pictures]
    left_out = tuple(
        f"{several(len(origins), 'object')} {reason}: {', '.join(first_of(origins, SHOWN))}"
        for reason, origins in reasons.items()
    )
    if not any(photo.instances for photo in photos):
        crowds = sum(len(photo.things) for photo in photos)
        raise InputError(f"{_files(export)}: nothing to learn. {_why_nothing(len(photos), crowds, left_out)}")
    return Masks(root, tuple(sorted(photos, key=lambda photo: photo.name)), left_out)


def _why_nothing(images: int, crowds: int, left_out: Sequence[str]) -> str:
    if crowds:
        crowd = f"Every object with a mask is a crowd (iscrowd 1), which is not counted: {crowds}"
        what = "; ".join([crowd, *left_out])
        return f"{what}. Set iscrowd to 0 on single objects."
    what = "; ".join([several(images, "image"), *(left_out or ["no object at all"])])
    return f"{what}. Masks are polygons or run lengths: export the annotations as instance segmentation."


def _files(export: Export) -> str:
    return ", ".join(map(str, first_of(export.files, SHOWN)))


def _joined(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures, one for each file."""
    by_file: dict[Path, list[Picture]] = {}
    for picture in pictures:
        by_file.setdefault(picture.file, []).append(picture)
    if twice := [file for file, same in by_file.items() if len({one.part for one in same}) > 1]:
        parts = " and ".join(sorted({str(one.part or "no part") for one in by_file[twice[0]]}))
        raise InputError(
            f"{several(len(twice), 'image file')} in two parts of the export ({parts}): "
            f"{', '.join(first_of(twice, SHOWN))}. A score on images that were trained on says little: "
            "take them out of one of the two."
        )
    return [
        first
        if len(same) == 1
        else Picture(
            first.file,
            first.width,
            first.height,
            tuple(item for one in same for item in one.items),
            {place: value for one in reversed(same) for place, value in one.fields.items()},
            first.part,
        )
        for first, same in ((same[0], same) for same in by_file.values())
    ]


def _common_folder(files: Iterable[Path]) -> Path:
    return Path(os.path.commonpath([os.path.dirname(file) for file in files]))


def _name(picture: Picture, root: Path) -> str:
    name = picture.file.relative_to(root).as_posix()
    if problem := text_problem(os.fsencode(name).decode("utf-8", "surrogateescape")):
        raise InputError(f"image {picture.file}: its name is {problem}; rename the file.")
    if PureWindowsPath(name).anchor:  # `load_coco` refuses it
        raise InputError(f"image {picture.file}: on other systems {name!r} names a disk or its root; rename the file.")
    return name


def _masked(picture: Picture, reasons: dict[str, list[str]]) -> Iterable[Masked]:
    """The objects of a picture that have a mask; of the others the reason, with the place of each."""
    for item in picture.items:
        try:
            yield _measured(item, picture.height, picture.width)
        except ValueError as error:
            reasons.setdefault(_left_out(str(error)), []).append(item.origin)


def _left_out(problem: str) -> str:
    return f"left out, {problem.removeprefix('segmentation: ')}"


def _measured(item: Item, height: int, width: int) -> Masked:
    """Raises ValueError: why the object has no mask."""
    if item.segmentation is None:
        raise ValueError("a box or a point without a mask")
    segmentation = parse_segmentation(item.segmentation, height, width)
    if segmentation is None:
        raise ValueError("no polygon of three points")
    rle = to_rle(segmentation, height, width)
    area = float(mask_utils.area(rle))
    if not area:
        raise ValueError("a mask without a pixel in the image")
    left, top, box_width, box_height = map(float, mask_utils.toBbox(rle).tolist())
    return Masked(item, segmentation, (left, top, box_width, box_height), area)


def several(number: int, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def unannotated(masks: Masks) -> int:
    """Image files in the folders of the export's images that it does not name."""
    folders = {photo.picture.file.parent for photo in masks.photos}
    named = {photo.picture.file for photo in masks.photos}
    there = (Path(entry.path) for folder in folders if folder.is_dir() for entry in os.scandir(folder))
    return sum(path.suffix.lower() in IMAGE_SUFFIXES and path not in named for path in there)


def count_categories(photos: Iterable[Photo]) -> Counter[str]:
    """Instances of each category."""
    return Counter(thing.item.category for photo in photos for thing in photo.instances)
