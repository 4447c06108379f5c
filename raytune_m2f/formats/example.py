"""From an image to instances by a graph that raytune_m2f wrote: numpy, and onnxruntime or torch, whichever it is for.

python example.py IMAGE      # .npy: (H, W, 3) uint8, RGB; other kinds are read by Pillow
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[Array], dict[str, Array]]


def load(folder: Path) -> tuple[Run, dict[str, Any]]:
    """The function from images (B, 3, S, S) to outputs by name, and the content of model.json."""
    description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    file, names = folder / description["file"], list(description["outputs"])
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(file), providers=onnxruntime.get_available_providers())
        return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True)), description
    import torch

    program = torch.export.load(file).module()
    return lambda images: {name: out.numpy() for name, out in program(torch.from_numpy(images)).items()}, description


def find_instances(run: Run, description: dict[str, Any], image: Array) -> list[dict[str, Any]]:
    """The instances of a (H, W, 3) uint8 RGB image, best first."""
    height, width = image.shape[:2]
    canvas, (h, w) = prepare(image, **description["preprocessing"])
    outputs = {name: values[0] for name, values in run(canvas[None]).items()}
    scores = outputs["scores"]
    best = np.argsort(-scores, axis=None, kind="stable")[: description["postprocessing"]["max_instances"]]
    _, down, across = outputs["masks"].shape
    # a mask is enlarged to the canvas, cut, and brought to the image's size: one matrix for each axis
    rows = weights(h, height, 1) @ weights(down, canvas.shape[1], 1)[:h]
    columns = weights(w, width, 1) @ weights(across, canvas.shape[2], 1)[:w]
    found = []
    for query, label in zip(*np.unravel_index(best, scores.shape), strict=True):
        if scores[query, label] < 0:
            continue  # dropped by a sieve
        logits = rows @ outputs["masks"][query] @ columns.T
        mask = logits > 0
        quality = (mask / (1 + np.exp(-np.maximum(logits, 0)))).sum() / (mask.sum() + 1e-6)
        heads = {}
        for head, names in description["subcategories"].items():
            probabilities = softmax(outputs[f"{head}_logits"][query])[:-1]
            heads[head] = {"name": names[probabilities.argmax()], "probabilities": probabilities.tolist()}
        score = float(scores[query, label] * quality)
        found.append({"label": int(label), "score": score, "mask": mask, "subcategories": heads})
    found.sort(key=lambda instance: -instance["score"])
    found = without_duplicates(found, description["postprocessing"])
    return [{"category": description["categories"][each.pop("label")]["name"], **each} for each in found]


def prepare(
    image: Array, min_size: int, max_size: int, height: int, width: int, pad_value: list[float]
) -> tuple[Array, tuple[int, int]]:
    """(3, height, width) float32, and height and width of the resized image in its upper left corner."""
    old = image.shape[:2]
    new = np.array(old, float)
    if min_size:
        new *= min_size / new.min()
    if new.max() > max_size:
        new *= max_size / new.max()
    new *= np.min([1, *([height, width] / np.maximum(1, np.floor(new + 0.5)))])  # of another shape than was thought of
    h, w = (max(1, int(length + 0.5)) for length in new)
    canvas = np.tile(np.array(pad_value, np.float32)[:, None, None], (1, height, width))
    planes = image.transpose(2, 0, 1).astype(np.float64)
    if (h, w) != old:
        down, across = (weights(a, b, max(1, a / b)) for a, b in zip(old, (h, w), strict=True))
        planes = np.floor(planes @ across.T + 0.5)  # whole numbers in between, too, as torchvision and Pillow do it
        planes = np.floor(down @ planes + 0.5)
    canvas[:, :h, :w] = planes
    return canvas, (h, w)


def weights(old: int, new: int, support: float) -> Array:
    """(new, old): the matrix of a bilinear resize; `support` is 1, or the reduction if there is antialiasing."""
    centre = (np.arange(new)[:, None] + 0.5) * (old / new)
    triangle = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - centre) / support)
    matrix: Array = triangle / triangle.sum(axis=1, keepdims=True)
    return matrix


def softmax(logits: Array) -> Array:
    exponentials = np.exp(logits - logits.max())
    probabilities: Array = exponentials / exponentials.sum()
    return probabilities


def without_duplicates(found: list[dict[str, Any]], postprocessing: dict[str, Any]) -> list[dict[str, Any]]:
    """Non-maximum suppression of masks."""
    kept: list[dict[str, Any]] = []
    for one in found:
        rivals = (each for each in kept if postprocessing["nms_class_agnostic"] or each["label"] == one["label"])
        if not any(overlap(one["mask"], each["mask"]) > postprocessing["nms_threshold"] for each in rivals):
            kept.append(one)
    return kept


def overlap(one: Array, other: Array) -> float:
    """Intersection over union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def read(file: str) -> Array:
    if file.endswith(".npy"):
        pixels: Array = np.load(file)
        return pixels
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))


if __name__ == "__main__":
    run, description = load(Path(__file__).parent)
    for instance in find_instances(run, description, read(sys.argv[1])):
        if instance["score"] >= 0.3:
            y, x = np.nonzero(instance["mask"])
            heads = "".join(f", {head} {label['name']}" for head, label in instance["subcategories"].items())
            box = f"{x.min()} {y.min()} {x.max() + 1} {y.max() + 1}" if len(x) else "empty"
            print(f"{instance['category']} {instance['score']:.3f}{heads}, box {box}, {len(x)} pixels")
