"""Small data sets and predictions made by hand: squares in a grid, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch.nn.functional import one_hot

from raytune_m2f.data import Annotation, Categories, CocoDataset, ImageRecord, TestSample
from raytune_m2f.model import Instances

HEADS: dict[str, tuple[str, ...]] = {"colour": ("red", "green", "blue")}
CATEGORIES = Categories(ids=(3, 7), names=("nut", "fig"), subcategories=HEADS)
SIZE = 128
SIDE = 4


def square(cell: int) -> torch.Tensor:
    """(128, 128) bool: square number `cell` of a grid of 25 x 25, none of which touch."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    y, x = 5 * (cell // 25), 5 * (cell % 25)
    mask[y : y + SIDE, x : x + SIDE] = True
    return mask


def annotation(number: int, cell: int, label: int = 0, colour: int = 0, *, crowd: bool = False) -> Annotation:
    rle = mask_utils.encode(np.asfortranarray(square(cell).numpy().astype(np.uint8)))
    return Annotation(
        id=number,
        label=label,
        segmentation={"size": rle["size"], "counts": rle["counts"].decode()},
        bbox=tuple(mask_utils.toBbox(rle).tolist()),
        area=float(SIDE * SIDE),
        iscrowd=crowd,
        sublabels={"colour": colour},
    )


def dataset(*images: Sequence[Annotation], categories: Categories = CATEGORIES) -> CocoDataset:
    """Image ids are 10, 20 ..."""
    records = tuple(
        ImageRecord(id=10 * i, file=Path(f"/{10 * i}.png"), width=SIZE, height=SIZE, annotations=tuple(annotations))
        for i, annotations in enumerate(images, start=1)
    )
    return CocoDataset("squares", Path("squares.json"), Path("/"), categories, records)


def predictions(
    cells: Sequence[int],
    labels: Sequence[int] | None = None,
    colours: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
) -> Instances:
    """One instance on each square; label 0, colour 0 and falling scores unless given."""
    count = len(cells)
    return Instances(
        scores=torch.tensor(scores if scores is not None else [1 - i / 1000 for i in range(count)]),
        labels=torch.tensor(labels if labels is not None else [0] * count, dtype=torch.int64),
        masks=torch.stack([square(cell) for cell in cells]) if count else torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
        queries=torch.arange(count),
        subprobs={"colour": 0.8 * one_hot(torch.tensor(colours or [0] * count, dtype=torch.int64), 3).float()},
    )


def samples(data: CocoDataset) -> list[TestSample]:
    """The images of a data set as an evaluator is given them; only their names and sizes matter to it."""
    return [TestSample(torch.zeros(3, 1, 1, dtype=torch.uint8), r.id, r.height, r.width, r.file) for r in data.records]
