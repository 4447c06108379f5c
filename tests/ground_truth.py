"""The ground truth in the form of predictions: a perfect detector, to check metrics and drawings by."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from raytune_m2f.data import Categories, ImageRecord
from raytune_m2f.model import Instances


def ground_truth_instances(record: ImageRecord, categories: Categories) -> Instances:
    """The annotations of an image, crowds left out, as instances with score 1.

    A subcategory has probability 1; one that is unknown has none for any class.
    """
    annotations = record.instances
    masks = np.zeros((len(annotations), record.height, record.width), dtype=bool)
    for mask, annotation in zip(masks, annotations, strict=True):
        mask[...] = annotation.mask(record.height, record.width)
    return Instances(
        scores=torch.ones(len(annotations)),
        labels=torch.tensor([annotation.label for annotation in annotations], dtype=torch.int64),
        masks=torch.from_numpy(masks),
        queries=torch.arange(len(annotations)),
        subprobs={
            name: _certain([annotation.sublabels[name] for annotation in annotations], len(classes))
            for name, classes in categories.subcategories.items()
        },
    )


def _certain(labels: list[int], classes: int) -> Tensor:
    """(K, classes): one-hot rows; `UNKNOWN` (-1) becomes a row of zeros."""
    return one_hot(torch.tensor(labels, dtype=torch.int64) + 1, classes + 1)[:, 1:].float()
