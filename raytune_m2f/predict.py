"""Use an exported model: instances of images, as pictures and as COCO JSON, and its metrics on a dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from model import Instances
from raytune_m2f.data import TestSample, load_for_model, read_image
from raytune_m2f.data.images import read_record
from raytune_m2f.errors import InputError
from raytune_m2f.evaluation import CocoEvaluator, instances_to_results
from raytune_m2f.export import ExportedModel
from raytune_m2f.visualize import draw_instances

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
INSTANCES = "instances.json"
Progress = Callable[[int, int, str], None]
"""Called when an image is done: how many are, of how many, and its file's name."""


def predict_image(exported: ExportedModel, image: NDArray[np.uint8]) -> Instances:
    """The instances of one (H, W, 3) RGB image, masks at its size, on the CPU."""
    height, width = image.shape[:2]
    (instances,) = exported.predict([exported.resized(image)], [(height, width)])
    return instances.to("cpu")


def predict_files(
    exported: ExportedModel,
    images: Sequence[Path],
    output: Path,
    *,
    score_threshold: float = 0.5,
    progress: Progress = lambda done, total, name: None,
) -> dict[str, Any]:
    """Predict image files: an overlay PNG for each, and all instances in one COCO JSON.

    Args:
        images: image files; a folder stands for all images in it.
        output: directory for `<name>.png` and `instances.json`.
        score_threshold: instances below it are neither drawn nor written.
        progress: called when an image is done.

    Returns:
        the content of instances.json: a COCO file whose annotations have a "score" and, for each head, its class
        index and "<head>_score".

    Raises:
        InputError: no image, or two of the same name.
        DatasetError: a file is no image.
    """
    files = find_images(images)
    pictures = _picture_names(files)
    output.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"images": [], **exported.categories.to_dict(), "annotations": []}
    for number, file in enumerate(files, start=1):
        pixels = read_image(file)
        instances = predict_image(exported, pixels)
        Image.fromarray(draw_instances(pixels, instances, exported.categories, score_threshold=score_threshold)).save(
            output / pictures[file]
        )
        content["images"].append(
            {"id": number, "file_name": str(file), "width": pixels.shape[1], "height": pixels.shape[0]}
        )
        for result in instances_to_results(instances, image_id=number, categories=exported.categories):
            if result["score"] >= score_threshold:
                content["annotations"].append(_annotation(len(content["annotations"]) + 1, result))
        progress(number, len(files), file.name)
    (output / INSTANCES).write_text(json.dumps(content) + "\n", encoding="utf-8")
    return content


def evaluate_export(
    exported: ExportedModel, annotations: Path, images: Path, *, progress: Progress = lambda done, total, name: None
) -> CocoEvaluator:
    """Score an exported model on a dataset; `evaluate()` of the result gives the metrics. See `load_for_model`.

    Raises:
        DatasetError: the annotations are wrong, have other categories than the model, or nothing to find.
    """
    config = exported.config
    dataset = load_for_model(exported.categories, annotations, images)
    evaluator = CocoEvaluator(dataset, max_detections=config.TEST.DETECTIONS_PER_IMAGE)
    for number, record in enumerate(dataset.records, start=1):
        image, size = exported.resized(read_record(record)), (record.height, record.width)
        (instances,) = exported.predict([image], [size])
        evaluator.process([TestSample(image, record.id, *size, record.file)], [instances.to("cpu")])
        progress(number, len(dataset.records), record.file.name)
    return evaluator


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths`, those of folders included.

    Raises:
        InputError: a path does not exist, or there is no image at all.
    """
    found = list(_expand(paths))
    if not found:
        raise InputError(f"no image to predict: give files or folders with {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _expand(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.is_file():
            yield path
        else:
            raise InputError(f"there is no image {path}")


def _picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """`<name>.png` for each file, with its folder's name in front where two would be the same."""
    for folders in range(3):
        names = {file: "_".join((*file.absolute().parts[-1 - folders : -1], file.stem)) + ".png" for file in files}
        if len(set(names.values())) == len(names):
            return names
    raise InputError("two of the images have the same name (a.png, a.jpg?): predict them in two calls")


def _annotation(number: int, result: dict[str, Any]) -> dict[str, Any]:
    """A COCO result as a COCO annotation."""
    return {"id": number, **result, "area": int(mask_utils.area(result["segmentation"])), "iscrowd": 0}
