"""A checked data set in memory, which every later stage may rely on, and the samples that are made of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from raytune_m2f.data.categories import Categories
from raytune_m2f.data.masks import Rle, Segmentation, decode, to_rle
from raytune_m2f.model import Target
from raytune_m2f.notes import Note


@dataclass(frozen=True, slots=True)
class Annotation:
    """One instance of the ground truth.

    Attributes:
        id: the id in the annotation file.
        label: main category, 0-based index into `Categories.ids`.
        segmentation: polygons or RLE, not decoded.
        bbox: x, y, width, height in pixels.
        area: in pixels; COCO's size classes (small, medium, large) use it.
        iscrowd: a region of many objects: evaluation ignores what falls in it, training leaves it out.
        sublabels: for each subcategory head the 0-based class, `UNKNOWN` (-1) where the file does not say.
    """

    id: int
    label: int
    segmentation: Segmentation
    bbox: tuple[float, float, float, float]
    area: float
    iscrowd: bool
    sublabels: dict[str, int]

    def rle(self, height: int, width: int) -> Rle:
        """The mask as compressed RLE for pycocotools, at the image's size in pixels."""
        return to_rle(self.segmentation, height, width)

    def mask(self, height: int, width: int) -> npt.NDArray[np.bool_]:
        """(H, W) bool, at the image's size in pixels."""
        mask: npt.NDArray[np.bool_] = decode([self.rle(height, width)], height, width)[0].astype(bool)
        return mask


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image and its instances.

    Attributes:
        id: the id in the annotation file.
        file: absolute path.
        width, height: in pixels, EXIF rotation applied.
        annotations: all instances, crowds included; may be empty.
    """

    id: int
    file: Path
    width: int
    height: int
    annotations: tuple[Annotation, ...]

    @property
    def instances(self) -> tuple[Annotation, ...]:
        """The annotations that training learns from: all but crowds."""
        return tuple(a for a in self.annotations if not a.iscrowd)


@dataclass(frozen=True)
class CocoDataset:
    """One annotation file, checked.

    Attributes:
        name: the name in DATASETS.REGISTER.
        annotations_file: the COCO JSON file.
        image_dir: the folder that file names are relative to.
        categories: what the labels mean.
        records: the images, ascending by id, those without annotations included.
        without_polygon: number of annotations left out because none of their polygons has three points.
        unnamed_files: number of further images in the same folders, which the annotation file does not name.
        unlabelled: for each head without any label, the message for the user: why, and what to do.
        remarks: further messages for the user.
        unused: what looks like labels, where no head is read.
    """

    name: str
    annotations_file: Path
    image_dir: Path
    categories: Categories
    records: tuple[ImageRecord, ...]
    without_polygon: int = 0
    unnamed_files: int = 0
    unlabelled: dict[str, str] = field(default_factory=dict)
    remarks: tuple[Note, ...] = ()
    unused: Note | None = None

    def __len__(self) -> int:
        """The number of images."""
        return len(self.records)

    def map_annotations(self, change: Callable[[Annotation], Annotation], categories: Categories) -> CocoDataset:
        """A copy with every annotation changed, whose labels then mean `categories`."""
        records = tuple(replace(r, annotations=tuple(map(change, r.annotations))) for r in self.records)
        return replace(self, records=records, categories=categories)


@dataclass(frozen=True)
class TrainSample:
    """One augmented training image.

    Attributes:
        image: (3, H, W) uint8, RGB.
        target: its instances, in the frame of `image`.
        seed: seed of everything random that the loss does with this image (its sampled points), so that
            the loss does not depend on how a batch is split over workers.
    """

    image: Tensor
    target: Target
    seed: int


@dataclass(frozen=True)
class TestSample:
    """One image to predict.

    Attributes:
        image: (3, h, w) uint8, RGB, resized for the network.
        image_id: the image's id in the annotation file.
        height, width: size of the original image, in pixels; predictions are made at this size.
        file: the image file.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    image: Tensor
    image_id: int
    height: int
    width: int
    file: Path


@contextmanager
def paused_gc() -> Iterator[None]:
    """Pause the garbage collector while millions of small objects are made: its search takes a third of that time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
