"""detectron2's dataset dictionaries, "entries": made of our datasets, read as ours, and mapped to samples.

Nothing here imports detectron2.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils

from raytune_m2f.data import Annotation, Categories, CocoDataset, ImageRecord, TestSample
from raytune_m2f.data.dataset import AUGMENTATION, Ticket, generator
from raytune_m2f.data.labels import find_labels
from raytune_m2f.data.masks import Segmentation, parse_segmentation, to_rle
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.model import UNKNOWN

Entry = dict[str, Any]
Mapper = Callable[[Any], Any]

XYWH = 1
"""detectron2's BoxMode.XYWH_ABS."""


def entries_of(dataset: CocoDataset) -> list[Entry]:
    """A dataset in detectron2's format, with every subcategory as a field of its annotation."""
    return [
        {
            "file_name": str(record.file),
            "image_id": record.id,
            "height": record.height,
            "width": record.width,
            "annotations": [_annotation_entry(annotation) for annotation in record.annotations],
        }
        for record in dataset.records
    ]


def _annotation_entry(annotation: Annotation) -> Entry:
    shape = annotation.segmentation
    return {
        "bbox": list(annotation.bbox),
        "bbox_mode": XYWH,
        "category_id": annotation.label,
        "segmentation": dict(shape) if isinstance(shape, dict) else [list(polygon) for polygon in shape],
        "iscrowd": int(annotation.iscrowd),
        "area": annotation.area,
        **annotation.sublabels,
    }


def metadata_of(dataset: CocoDataset) -> dict[str, Any]:
    """Its entry in MetadataCatalog: detectron2's fields, and the class names of every head."""
    categories = dataset.categories
    return {
        "json_file": str(dataset.annotations_file),
        "image_root": str(dataset.image_dir),
        "evaluator_type": "coco",
        "thing_classes": list(categories.names),
        "thing_dataset_id_to_contiguous_id": {number: i for i, number in enumerate(categories.ids)},
        "subcategories": {head: list(names) for head, names in categories.subcategories.items()},
    }


def categories_of(name: str, metadata: Mapping[str, Any], heads: Sequence[str]) -> Categories:
    """The class names of a dataset's entry in MetadataCatalog. Raises ConfigError if there are none, or of no head."""
    names = metadata.get("thing_classes")
    if not names:
        raise ConfigError(f"data set {name!r}: MetadataCatalog has no thing_classes of it: set them where it is made.")
    known = metadata.get("subcategories", {})
    if missing := [head for head in heads if head not in known]:
        raise ConfigError(
            f"DATASETS.SUBCATEGORIES: data set {name!r} has no class names of {', '.join(missing)}: where it is "
            "registered, set MetadataCatalog.get(name).subcategories = {head: [class name, ...]}."
        )
    ids = list(metadata.get("thing_dataset_id_to_contiguous_id") or range(1, len(names) + 1))
    return Categories(
        ids=tuple(ids) if ids == sorted(ids) else tuple(range(1, len(names) + 1)),
        names=tuple(names),
        subcategories={head: tuple(known[head]) for head in heads},
    )


def dataset_of(name: str, entries: Sequence[Entry], categories: Categories) -> CocoDataset:
    """The entries of a dataset, checked; boxes are XYWH, and the mask where there is none. Images are not opened.

    Raises:
        DatasetError: of the first entry that is wrong.
    """
    records = []
    for entry in entries:
        where = f"data set {name!r}, image {entry.get('file_name')}"
        try:
            number, height, width = (int(entry[key]) for key in ("image_id", "height", "width"))
            annotations = tuple(
                _annotation(annotation, i, height, width, categories)
                for i, annotation in enumerate(entry.get("annotations", ()), start=1)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{where}: {error!r}: not as detectron2's dataset dictionaries are") from error
        records.append(ImageRecord(number, Path(entry["file_name"]), width, height, annotations))
    if len({record.id for record in records}) < len(records):
        raise DatasetError(f"data set {name!r}: two images have the same image_id")
    source = Path(f"data set {name!r}")
    labelled = [annotation for entry in entries for annotation in entry.get("annotations", ())]
    unlabelled, remarks = find_labels(categories, labelled, source=str(source))
    records.sort(key=lambda record: record.id)
    return CocoDataset(name, source, source, categories, tuple(records), unlabelled=unlabelled, remarks=tuple(remarks))


def _annotation(entry: Entry, number: int, height: int, width: int, categories: Categories) -> Annotation:
    label = entry["category_id"]
    if not 0 <= label < len(categories):
        raise ValueError(f"category_id {label} of annotation {number}, allowed: 0 to {len(categories) - 1}")
    sublabels = {head: entry.get(head, UNKNOWN) for head in categories.sizes}
    for head, size in categories.sizes.items():
        if not UNKNOWN <= sublabels[head] < size:
            raise ValueError(f"{head} {sublabels[head]} of annotation {number}, allowed: -1 to {size - 1}")
    shape = _segmentation(entry, height, width)
    left, top, box_width, box_height = entry["bbox"]
    return Annotation(
        id=number,
        label=label,
        segmentation=shape,
        bbox=(left, top, box_width, box_height),
        area=entry["area"] if "area" in entry else float(mask_utils.area(to_rle(shape, height, width))),
        iscrowd=bool(entry.get("iscrowd", 0)),
        sublabels=sublabels,
    )


def _segmentation(entry: Entry, height: int, width: int) -> Segmentation:
    shape = entry.get("segmentation")
    if isinstance(shape, Mapping) and isinstance(shape["counts"], bytes):
        shape = {**shape, "counts": shape["counts"].decode("ascii")}
    if not shape:
        left, top, box_width, box_height = entry["bbox"]
        right, bottom = left + box_width, top + box_height
        shape = [[left, top, right, top, right, bottom, left, bottom]]
    parsed = parse_segmentation(shape, height, width)
    if parsed is None:
        raise ValueError("a segmentation without a polygon of three points")
    return parsed


@contextmanager
def seeded(seed: int, position: int) -> Iterator[int]:
    """Seed the generators of Python, numpy and torch by (seed, position) alone, for a while; yields another seed."""
    number = int(generator(seed, AUGMENTATION, position).integers(2**63))
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(number)
        np.random.seed(number % 2**32)
        torch.default_generator.manual_seed(number)
        try:
            yield number
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@dataclass
class MappedTraining:
    """Mapped training images. `dataset[index, position]` depends on its arguments, not on what was drawn before.

    Where the mapper gives None (an image of no use) the next image is taken. `finish` makes of what it gives, and a
    seed, what the network learns from. `start` is a number of positions, the first ones, and the mapper for them.
    """

    entries: Sequence[Entry]
    mapper: Mapper
    finish: Callable[[Any, int], Any]
    seed: int
    start: tuple[int, Mapper] | None = None

    def __getitem__(self, ticket: Ticket) -> Any:
        index, position = ticket
        mapper = self.start[1] if self.start and position < self.start[0] else self.mapper
        with seeded(self.seed, position) as number:
            for skipped in range(len(self)):
                mapped = map_entry(mapper, self.entries[(index + skipped) % len(self)])
                if mapped is not None:
                    return self.finish(mapped, number)
        raise DatasetError("the mapper refuses every training image (it gives None)")

    def __len__(self) -> int:
        return len(self.entries)


@dataclass
class MappedTest:
    """Mapped test images; see `MappedTraining`."""

    entries: Sequence[Entry]
    mapper: Mapper
    finish: Callable[[Any, Entry], Any]

    def __getitem__(self, index: int) -> Any:
        return self.finish(map_entry(self.mapper, self.entries[index]), self.entries[index])

    def __len__(self) -> int:
        return len(self.entries)


def test_sample(mapped: Entry, entry: Entry) -> TestSample:
    """A mapped test image; its original size is its own where the entry does not say it."""
    image = mapped["image"]
    height, width = entry.get("height", image.shape[1]), entry.get("width", image.shape[2])
    return TestSample(image, entry.get("image_id", 0), height, width, Path(entry.get("file_name", "")))


def map_entry(mapper: Mapper, entry: Entry) -> Any:
    """What the mapper makes of an entry. Raises DatasetError with the image's name, whatever went wrong."""
    try:
        return mapper(copy.deepcopy(entry))
    except Exception as error:
        raise DatasetError(f"image {entry['file_name']} cannot be mapped: {type(error).__name__}: {error}") from error


def sampled_batches(batches: Iterable[list[Ticket]], indices: Iterator[int]) -> Iterator[list[Ticket]]:
    """A worker's batches with the indices of a sampler of detectron2's: ascending positions of its whole stream."""
    stream = enumerate(indices)
    for batch in batches:
        yield [(next(index for at, index in stream if at == position), position) for _, position in batch]
