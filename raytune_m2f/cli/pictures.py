"""The pictures of the demo: what the images hold, and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from raytune_m2f.data import CocoDataset, ImageRecord, read_image
from raytune_m2f.model import UNKNOWN, Instances
from raytune_m2f.visualize import contact_sheet, draw_instances


def draw_truth(dataset: CocoDataset, file: Path, most: int) -> None:
    """A sheet of the first `most` images with their true masks and labels."""
    pictures = [
        draw_instances(read_image(record.file), true_instances(record, dataset), dataset.categories, show_scores=False)
        for record in dataset.records[:most]
    ]
    Image.fromarray(contact_sheet(pictures, columns=4, cell_width=480)).save(file)


def true_instances(record: ImageRecord, dataset: CocoDataset) -> Instances:
    """The annotations of an image, as if they had been predicted with certainty."""
    found, size = record.annotations, (record.height, record.width)
    masks = np.stack([annotation.mask(*size) for annotation in found])
    return Instances(
        scores=torch.ones(len(found)),
        labels=torch.tensor([annotation.label for annotation in found]),
        masks=torch.from_numpy(masks),
        queries=torch.arange(len(found)),
        subprobs={
            head: one_hot([annotation.sublabels[head] for annotation in found], len(names))
            for head, names in dataset.categories.subcategories.items()
        },
    )


def one_hot(labels: Sequence[int], classes: int) -> torch.Tensor:
    """(K, C): 1 for the class of each, nothing for an unknown one."""
    known = torch.tensor([label != UNKNOWN for label in labels])
    encoded: torch.Tensor = nn.functional.one_hot(torch.tensor(labels).clamp(min=0), classes)
    return encoded * known[:, None].float()


def draw_sheet(files: Sequence[Path], file: Path) -> None:
    """A sheet of picture files."""
    pictures = [np.asarray(Image.open(one)) for one in files]
    Image.fromarray(contact_sheet(pictures, columns=4, cell_width=480)).save(file)
