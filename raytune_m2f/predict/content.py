"""What is written of predictions: instances.json, results.json, lines for pipes, pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as mask_utils

from raytune_m2f.data import Categories
from raytune_m2f.data.masks import Rle, decode
from raytune_m2f.evaluation import instances_to_results
from raytune_m2f.model import Instances, PackedInstances
from raytune_m2f.predict.files import Page
from raytune_m2f.storage.files import sealed_png
from raytune_m2f.visualize import draw_instances

INSTANCES, RESULTS = "instances.json", "results.json"
MAX_PICTURE_PIXELS = 2**24
COMPRESSION = 2
"""zlib's level: of PIL's own, 6, the pictures are a sixth smaller and take three times as long."""


@dataclass(frozen=True)
class Predicted:
    """The instances of one image that are kept.

    Attributes:
        results: as `instances_to_results` makes them, best first, without "image_id"; each with its "area" [pixels].
    """

    page: Page
    width: int
    height: int
    results: list[dict[str, Any]]

    @classmethod
    def of(
        cls, page: Page, size: tuple[int, int], found: PackedInstances[Rle], categories: Categories, min_score: float
    ) -> Predicted:
        """What `found` has from `min_score` on and with a pixel; `size` is (height, width)."""
        results = []
        for result in instances_to_results(found, image_id=0, categories=categories):
            area = int(mask_utils.area(result["segmentation"]))
            if result["score"] >= min_score and area > 0:
                del result["image_id"]
                results.append({**result, "area": area})
        return cls(page, size[1], size[0], results)

    def entry(self, name: str) -> dict[str, Any]:
        """The image, called `name`, as COCO files have it; "page" where its file has several."""
        page = {} if self.page.number is None else {"page": self.page.number}
        return {"file_name": name, **page, "width": self.width, "height": self.height}

    def line(self, categories: Categories) -> dict[str, Any]:
        """All that is known of the image, by names, for a program that reads it alone."""
        instances = [_with_names(result, categories) for result in self.results]
        return {**self.entry(str(self.page.file)), "instances": instances}


def _with_names(result: dict[str, Any], categories: Categories) -> dict[str, Any]:
    heads = {f"{head}_name": names[result[head]] for head, names in categories.subcategories.items() if head in result}
    return {"category": categories.names[categories.ids.index(result["category_id"])], **heads, **result}


def annotation_file(found: Sequence[Predicted], folder: Path, categories: Categories) -> dict[str, Any]:
    """The content of instances.json: a COCO annotation file of these images, whose names are relative to `folder`."""
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(found, start=1):
        for result in image.results:
            # an annotation states the class alone
            stated = {key: value for key, value in result.items() if not _is_of_probabilities(key, categories)}
            annotations.append({"id": len(annotations) + 1, "image_id": number, **stated, "iscrowd": 0})
    names = (os.path.relpath(image.page.file.absolute(), folder) for image in found)
    return {
        "info": {"description": "instances predicted by raytune_m2f", "images": str(folder)},
        "images": [{"id": i, **image.entry(name)} for i, (image, name) in enumerate(zip(found, names, strict=True), 1)],
        **categories.to_dict(),
        "annotations": annotations,
    }


def _is_of_probabilities(key: str, categories: Categories) -> bool:
    return any(key == f"{head}_probabilities" for head in categories.subcategories)


def results_file(found: Sequence[Predicted]) -> list[dict[str, Any]]:
    """The content of results.json: COCO's results on the images of instances.json, with every probability."""
    return [{"image_id": number, **result} for number, image in enumerate(found, start=1) for result in image.results]


def picture(
    pixels: NDArray[np.uint8],
    instances: PackedInstances[Rle],
    categories: Categories,
    min_score: float,
    max_pixels: int,
) -> bytes:
    """The instances over their image, as PNG.

    Args:
        pixels: (H, W, 3), RGB.
        max_pixels: the picture of a larger image is shrunk, as drawing takes some 50 bytes a pixel.
    """
    image = Image.fromarray(pixels)
    size = _picture_size(image.width, image.height, max_pixels)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    shown = _shown(instances, min_score, size)
    drawn = draw_instances(np.asarray(image), shown, categories, score_threshold=min_score)
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, format="PNG", compress_level=COMPRESSION)
    return sealed_png(file.getvalue())


def _picture_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Width and height of the picture of an image."""
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _shown(instances: PackedInstances[Rle], min_score: float, size: tuple[int, int]) -> Instances:
    """The instances above the threshold, masks at `size` (w, h), that of their image or a smaller one."""
    kept = (instances.scores >= min_score).nonzero()[:, 0].cpu()
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
