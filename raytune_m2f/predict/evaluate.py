"""Score an exported model on a data set."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raytune_m2f.data import CocoDataset, TestSample, load_for_model
from raytune_m2f.data.images import check_image, read_record
from raytune_m2f.data.summary import cap_notes
from raytune_m2f.errors import DatasetError, first_of
from raytune_m2f.evaluation import CocoEvaluator
from raytune_m2f.export import ExportedModel

log = logging.getLogger(__name__)

SHOWN = 10
"""Names in an error."""
Progress = Callable[[int, int, str], None]
"""Called when an image is done: how many are, of how many, and its file's name."""


def evaluate_export(
    exported: ExportedModel,
    annotations: Path,
    images: Path,
    *,
    max_megapixels: float | None = None,
    progress: Progress = lambda done, total, name: None,
) -> CocoEvaluator:
    """Score an exported model on a dataset; `evaluate()` of the result gives the metrics.

    Args:
        annotations, images: the COCO file and the folder of its images; see `load_for_model`.
        max_megapixels: see `read_image`.
        progress: called when an image is done.

    Raises:
        DatasetError: the annotations are wrong, have other categories than the model, or nothing to find; or images
            cannot be read, all of which are named: scores without them would not be comparable.
    """
    evaluator = evaluator_of(exported, annotations, images, max_megapixels=max_megapixels)
    for sample, pixels in images_of(evaluator.dataset, max_megapixels=max_megapixels, progress=progress):
        evaluator.process([sample], [exported.predict_encoded(pixels)])
    return evaluator


def evaluator_of(
    exported: ExportedModel, annotations: Path, images: Path, *, max_megapixels: float | None, bootstrap: int = 0
) -> CocoEvaluator:
    """The evaluator of an exported model on a dataset, whose images can be read as far as their headers say.

    Args:
        bootstrap: of `CocoEvaluator`; else see `evaluate_export`.
    """
    dataset = load_for_model(exported.categories, annotations, images)
    most = exported.config.TEST.DETECTIONS_PER_IMAGE
    for note in cap_notes(annotations, max(len(record.instances) for record in dataset.records), most):
        log.warning("%s", note.text)
    _require_images(dataset, lambda record: check_image(record.file, max_megapixels=max_megapixels))
    evaluator = exported.config.TEST.EVALUATOR
    return CocoEvaluator(dataset, max_detections=most, bootstrap=bootstrap, evaluator=evaluator)


def images_of(
    dataset: CocoDataset, *, max_megapixels: float | None, progress: Progress
) -> Iterator[tuple[TestSample, NDArray[np.uint8]]]:
    """Every image of a dataset, (H, W, 3) uint8 RGB; `progress` is told when one is done."""
    for done, record in enumerate(dataset.records, start=1):
        try:
            pixels = read_record(record, max_megapixels=max_megapixels)
        except DatasetError:  # its header was readable: find all others like that, and stop
            _require_images(dataset, lambda record: read_record(record, max_megapixels=max_megapixels))
            raise
        yield TestSample(torch.empty(0), record.id, record.height, record.width, record.file), pixels
        progress(done, len(dataset.records), record.file.name)


def _require_images(dataset: CocoDataset, read: Callable[[Any], object]) -> None:
    """Raises DatasetError that names all images that `read` cannot read."""
    errors = []
    for record in dataset.records:
        try:
            read(record)
        except DatasetError as error:
            errors.append(str(error))
    if errors:
        what = f"{dataset.annotations_file}: {len(errors)} of {len(dataset)} images cannot be used, and without them"
        raise DatasetError("\n  ".join([f"{what} the scores would be others:", *first_of(errors, SHOWN)]))
