"""Use an exported model: predict image files as pictures and COCO JSON, and score it on a data set."""

from __future__ import annotations

import io
import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from raytune_m2f.data import Categories, CocoDataset, TestSample, load_for_model, read_image
from raytune_m2f.data.images import IMAGE_SUFFIXES, check_image, read_record
from raytune_m2f.data.masks import Rle, decode
from raytune_m2f.data.summary import cap_notes
from raytune_m2f.errors import DatasetError, InputError, UnreadableImagesError, first_of
from raytune_m2f.evaluation import CocoEvaluator, instances_to_results
from raytune_m2f.export import ExportedModel
from raytune_m2f.model import Instances, PackedInstances
from raytune_m2f.storage.files import require_free, sealed_json, sealed_png, shortened, write_atomically
from raytune_m2f.visualize import draw_instances

log = logging.getLogger(__name__)

INSTANCES = "instances.json"
MAX_PICTURE_PIXELS = 2**24
SHOWN = 10
"""Names in an error."""
Progress = Callable[[int, int, str], None]
"""Called when an image is done: how many are, of how many, and its file's name."""


def predict_files(
    exported: ExportedModel,
    images: Sequence[Path],
    output: Path,
    *,
    score_threshold: float = 0.5,
    max_megapixels: float | None = None,
    max_picture_pixels: int = MAX_PICTURE_PIXELS,
    progress: Progress = lambda done, total, name: None,
) -> dict[str, Any]:
    """Predict image files: an overlay PNG for each, and all instances in one COCO JSON.

    What is done is also written if the rest is interrupted.

    Args:
        images: image files; a folder stands for all images in it.
        output: directory for `<name>.png` and `instances.json`.
        score_threshold: instances below it are neither drawn nor written, nor are those without a pixel.
        max_megapixels: see `read_image`.
        max_picture_pixels: the picture of a larger image is shrunk, as drawing takes some 50 bytes a pixel.
        progress: called when an image is done.

    Returns:
        The content of instances.json: a COCO file whose annotations have a "score" and, for each head, its class
        index and "<head>_score". File names are relative to the folder that all images are in, info.images.

    Raises:
        InputError: no image, or a file of the user's would be overwritten; nothing is done then.
        UnreadableImagesError: some of the files are no images; the others are done.
        DatasetError: none is an image that can be read.
    """
    files = find_images(images)
    names = picture_names(files)
    _require_output(output, images, files, names)
    output.mkdir(parents=True, exist_ok=True)
    content = _Content(exported, common_folder(files), score_threshold)
    unreadable: list[str] = []
    try:
        for done, file in enumerate(files, start=1):
            try:
                pixels = read_image(file, max_megapixels=max_megapixels)
            except DatasetError as error:
                unreadable.append(str(error))
            else:
                instances = exported.predict_encoded(pixels)
                picture = _picture(pixels, instances, exported.categories, score_threshold, max_picture_pixels)
                write_atomically(output / names[file], picture)
                content.add(file, pixels, instances)
            progress(done, len(files), file.name)
    finally:
        text = sealed_json(content.as_dict())
        if content.images:
            write_atomically(output / INSTANCES, text)
    if unreadable:
        kind = UnreadableImagesError if content.images else DatasetError
        others = len(files) - len(unreadable)
        rest = f"{output / INSTANCES} has the other {others}" if others else "nothing was written"
        summary = f"{len(unreadable)} of {len(files)} images were left out; {rest}:"
        raise kind("\n  ".join([summary, *first_of(unreadable, SHOWN)]))
    written: dict[str, Any] = json.loads(text)
    return written


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


def find_images(paths: Iterable[Path]) -> list[Path]:
    """The image files among `paths`, those of folders included, each once.

    Raises:
        InputError: a path does not exist, or there is no image at all.
    """
    found = list({os.path.abspath(file): file for file in _expand(paths)}.values())
    if not found:
        raise InputError(f"no image to predict: give files or folders with {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def _expand(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        elif path.exists():
            yield path
        else:
            raise InputError(f"there is no image {path}")


def common_folder(files: Sequence[Path]) -> Path:
    """The innermost folder that contains all files."""
    return Path(os.path.commonpath([file.absolute().parent for file in files]))


def picture_names(files: Sequence[Path]) -> dict[Path, str]:
    """`<name>.png` for each file; names that would collide get more of the file's path or name.

    On some systems Ä and its two-character form, or a and A, name the same file: they count as the same here.
    """
    attempts = dict.fromkeys(files, 0)
    while True:
        names = {
            file: shortened(_name(file, number, attempts[file]), ".png") for number, file in enumerate(files, start=1)
        }
        folded = {file: unicodedata.normalize("NFKC", name).casefold() for file, name in names.items()}
        counts = Counter(folded.values())
        repeated = [file for file, name in folded.items() if counts[name] > 1]
        if not repeated:
            return names
        for file in repeated:
            attempts[file] += 1


def _name(file: Path, number: int, attempt: int) -> str:
    """The name to try at an attempt: the file's own, then with folders, at last with the file's number."""
    folders = file.absolute().parts[1:-1]
    choices = (
        file.stem,
        "_".join((*folders[-1:], file.stem)),
        "_".join((*folders[-2:], file.stem)),
        "_".join((*folders[-1:], file.name)),
    )
    return choices[attempt] if attempt < len(choices) else f"{number:06d}_{file.stem}"


class _Content:
    """Collects the content of instances.json."""

    def __init__(self, exported: ExportedModel, folder: Path, score_threshold: float) -> None:
        self.images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._folder, self._threshold, self._categories = folder, score_threshold, exported.categories

    def add(self, file: Path, pixels: NDArray[np.uint8], instances: PackedInstances[Rle]) -> None:
        height, width = pixels.shape[:2]
        name = os.path.relpath(file.absolute(), self._folder)
        image = {"id": len(self.images) + 1, "file_name": name, "width": width, "height": height}
        self.images.append(image)
        for result in instances_to_results(instances, image_id=image["id"], categories=self._categories):
            area = int(mask_utils.area(result["segmentation"]))
            if result["score"] >= self._threshold and area > 0:
                annotation = {"id": len(self._annotations) + 1, **result, "area": area, "iscrowd": 0}
                for head in self._categories.subcategories:
                    del annotation[f"{head}_probabilities"]  # for evaluation: an annotation states the class alone
                self._annotations.append(annotation)

    def as_dict(self) -> dict[str, Any]:
        info = {"description": "instances predicted by raytune_m2f", "images": str(self._folder)}
        names = self._categories.to_dict()
        return {"info": info, "images": self.images, **names, "annotations": self._annotations}


def _require_output(output: Path, given: Sequence[Path], files: Sequence[Path], names: dict[Path, str]) -> None:
    """Refuse to overwrite an image, or any other file that is not ours; before the first image is read."""
    for folder in given:
        if folder.is_dir() and output.is_dir() and os.path.samefile(folder, output):
            raise InputError(f"--output {output} is the folder of the images: give another one for the pictures.")
    inputs = {_identity(file): file for file in files if file.exists()}
    for path in [output / INSTANCES, *(output / names[file] for file in files)]:
        if path.exists() and (file := inputs.get(_identity(path))) is not None:
            raise InputError(
                f"--output {output}: the picture {path} would be written over the image {file}: give another directory."
            )
        require_free(path, f"--output {output}")


def _identity(path: Path) -> tuple[int, int]:
    """The same for all names of one file."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino


def _picture_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height of the picture of an image."""
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _shown(instances: PackedInstances[Rle], score_threshold: float, size: tuple[int, int]) -> Instances:
    """The instances above the threshold, masks at `size` (w, h), that of their image or a smaller one."""
    kept = (instances.scores >= score_threshold).nonzero()[:, 0].cpu()
    masks = torch.zeros(len(kept), size[1], size[0], dtype=torch.bool)
    for mask, i in zip(masks, kept.tolist(), strict=True):
        mask[:] = torch.from_numpy(_mask_at(size, instances.masks[i]))
    return Instances(
        scores=instances.scores.cpu()[kept],
        labels=instances.labels.cpu()[kept],
        masks=masks,
        queries=instances.queries.cpu()[kept],
        subprobs={name: probs.cpu()[kept] for name, probs in instances.subprobs.items()},
    )


def _mask_at(size: tuple[int, int], rle: Rle) -> NDArray[np.bool_]:
    height, width = rle["size"]
    mask: NDArray[np.uint8] = decode([rle], height, width)[0]
    if (width, height) == size:
        return mask > 0
    small: NDArray[np.bool_] = np.asarray(Image.fromarray(mask * 255).resize(size, Image.Resampling.BOX)) >= 128
    return small


def _picture(
    pixels: NDArray[np.uint8],
    instances: PackedInstances[Rle],
    categories: Categories,
    score_threshold: float,
    max_pixels: int,
) -> bytes:
    """The instances over their image, as PNG."""
    image = Image.fromarray(pixels)
    size = _picture_size(image.width, image.height, max_pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    shown = _shown(instances, score_threshold, size)
    drawn = draw_instances(np.asarray(image), shown, categories, score_threshold=score_threshold)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, format="PNG")
    return sealed_png(file.getvalue())


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
