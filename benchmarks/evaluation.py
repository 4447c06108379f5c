"""A whole evaluation apart from the network, in two checkouts of this repository, in turn: CPU time of each stage, peak
memory, and how far the results differ.

    python -m benchmarks.evaluation [--against CHECKOUT] [--images 500] [--pairs 10]

The network's outputs are made up, an image at a time and outside of what is measured: 100 queries on images of 480 x
640, two or three on each of about eight objects, the others elsewhere, a fifth of them frayed; three categories, two
heads. One thread. The other checkout may be as old as 451fa21, whose evaluator took whole masks. Stages:

masks     from the outputs of an image to its instances
product   the part of it that is mask embeddings times mask features, which is the network's rather than ours
process   Evaluator.process
evaluate  Evaluator.evaluate
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pycocotools import mask as mask_utils
from torch import Tensor

from benchmarks.measure import Pairs, peak_memory

HERE = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH, STRIDE = 480, 640, 4
QUERIES, CHANNELS, CATEGORIES = 100, 256, 3
HEADS = {"colour": ("red", "green", "blue", "yellow"), "ripeness": ("unripe", "ripe", "rotten")}
STAGES = ("masks", "product", "process", "evaluate")
Floats = NDArray[np.float32]


class Scene:
    """One image's annotations and what a network might make of it; the same number gives the same.

    An outline is a circle with waves around it: `shapes` holds x, y, radius [pixels], and size and phase of the waves.
    """

    def __init__(self, number: int):
        rng = self._rng = np.random.default_rng([17, number])
        count = self.count = int(rng.integers(4, 13))
        self.labels = rng.integers(CATEGORIES, size=count)
        self.sublabels = {name: rng.integers(len(classes), size=count) for name, classes in HEADS.items()}
        self.shapes = self._draw(count)

    def _draw(self, count: int) -> Floats:
        x, y = self._rng.uniform(0, WIDTH, count), self._rng.uniform(0, HEIGHT, count)
        radius = np.exp(self._rng.uniform(np.log(8), np.log(100), count))
        waves, phase = self._rng.uniform(0, 0.25, count), self._rng.uniform(0, 2 * np.pi, count)
        return np.stack((x, y, radius, waves, phase), 1).astype(np.float32)

    def masks(self) -> Iterator[dict[str, Any]]:
        """The true masks as run lengths, counts as text."""
        for shape in self.shapes:
            rle = mask_utils.encode(np.asfortranarray(_depth(shape[None], 1)[0] > 0, np.uint8))
            yield {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}

    def outputs(self) -> dict[str, Any]:
        """What `Outputs` is made of."""
        rng, count = self._rng, self.count
        of = np.concatenate((np.repeat(np.arange(count), rng.integers(2, 4, count)), np.full(QUERIES, -1)))[:QUERIES]
        on_object = of >= 0
        shapes = np.where(on_object[:, None], self.shapes[of], self._draw(QUERIES))
        shapes[:, :3] += rng.normal(0, 0.06, (QUERIES, 3)) * shapes[:, 2:3]
        fields = torch.from_numpy(rng.standard_normal((1, 16, HEIGHT // 32, WIDTH // 32), np.float32))
        noise = F.interpolate(fields, size=(HEIGHT // STRIDE, WIDTH // STRIDE), mode="bilinear")[0].numpy()
        roughness = np.where(~on_object & (rng.random(QUERIES) < 0.25), 3.0, 0.3)[:, None]
        mixed = (rng.standard_normal((QUERIES, 16)) * roughness).astype(np.float32) @ noise.reshape(16, -1)
        logits = np.clip(_depth(shapes, STRIDE) * 0.4, -9, 7).reshape(QUERIES, -1) + mixed
        return {
            "pred_logits": self._classes(of, self.labels, CATEGORIES),
            "pred_sublogits": {
                name: self._classes(of, self.sublabels[name], len(classes)) for name, classes in HEADS.items()
            },
            "mask_embed": EMBED[None, None],
            "mask_features": (EMBED.T @ torch.from_numpy(logits)).view(1, CHANNELS, *noise.shape[1:]),
        }

    def _classes(self, of: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Tensor:
        """(1, 1, Q, classes + 1) logits: most of the queries on an object name its class, the others no object."""
        logits = self._rng.normal(0, 1, (QUERIES, classes + 1))
        said = np.where(self._rng.random(QUERIES) < 0.8, labels[of], self._rng.integers(classes, size=QUERIES))
        logits[np.arange(QUERIES), np.where(of >= 0, said, classes)] += 4
        return torch.from_numpy(logits.astype(np.float32))[None, None]


EMBED = torch.linalg.qr(torch.randn(CHANNELS, QUERIES, generator=torch.Generator().manual_seed(0)))[0].T.contiguous()


def _depth(shapes: Floats, stride: int) -> Floats:
    """(N, H / stride, W / stride): how deep each cell's middle lies in a shape, in pixels; negative outside."""
    x, y, radius, waves, phase = (values[:, None, None] for values in shapes.T)
    across = np.arange(stride / 2, WIDTH, stride, dtype=np.float32) - x
    down = np.arange(stride / 2, HEIGHT, stride, dtype=np.float32)[:, None] - y
    distance = np.sqrt(across**2 + down**2) + 1e-3
    cos, sin = across / distance, down / distance
    # of three times the angle; numpy's power would take most of the time
    wave = (4 * cos * cos - 3) * cos * np.cos(phase) + (3 - 4 * sin * sin) * sin * np.sin(phase)
    depth: Floats = radius * (1 + waves * wave) - distance
    return depth


class Evaluation:
    """The code of one checkout on so many images."""

    def __init__(self, images: int):
        from raytune_m2f.data import Annotation, Categories, CocoDataset, ImageRecord, TestSample
        from raytune_m2f.evaluation import CocoEvaluator

        records, number = [], 0
        for image in range(images):
            scene, annotations = Scene(image), []
            for place, rle in enumerate(scene.masks()):
                number += 1
                annotations.append(
                    Annotation(
                        id=number,
                        label=int(scene.labels[place]),
                        segmentation=rle,
                        bbox=tuple(mask_utils.toBbox(rle).tolist()),
                        area=float(mask_utils.area(rle)),
                        iscrowd=False,
                        sublabels={name: int(labels[place]) for name, labels in scene.sublabels.items()},
                    )
                )
            records.append(ImageRecord(image, Path(f"{image}.jpg"), WIDTH, HEIGHT, tuple(annotations)))
        categories = Categories(tuple(range(CATEGORIES)), ("nut", "fig", "date"), HEADS)
        data = CocoDataset("made up", Path("made_up.json"), Path(), categories, tuple(records))
        nothing = torch.zeros(3, 1, 1, dtype=torch.uint8)
        self.samples = [TestSample(nothing, r.id, r.height, r.width, r.file) for r in records]
        self.evaluator = CocoEvaluator(data, bootstrap=100)
        self.instances = _predictor()

    def process(self, first: int, last: int) -> dict[str, float]:
        """CPU seconds of each stage but the last, for some images."""
        times = dict.fromkeys(STAGES[:-1], 0.0)
        for number in range(first, last):
            outputs = Scene(number).outputs()
            start = time.process_time()
            found = self.instances(outputs)
            between = time.process_time()
            self.evaluator.process([self.samples[number]], [found])
            times["process"] += time.process_time() - between
            times["masks"] += between - start
            embed = outputs["mask_embed"][-1, 0, found.queries.unique()]
            start = time.process_time()
            torch.einsum("kd,dhw->khw", embed, outputs["mask_features"][0])
            times["product"] += time.process_time() - start
        return times

    def evaluate(self) -> dict[str, float]:
        """CPU seconds of the last stage."""
        start = time.process_time()
        self.metrics = self.evaluator.evaluate()
        return {"evaluate": time.process_time() - start}

    def memory(self) -> dict[str, float]:
        """MiB beyond what was there before: for the masks of an image, and to evaluate all that were processed.

        To be asked for before `evaluate`: what runs in a child process has no threads of its parent's.
        """
        outputs = Scene(0).outputs()
        return {
            "masks": peak_memory(lambda: self.instances(outputs)),
            "evaluate": peak_memory(self.evaluator.evaluate),
        }

    def found(self) -> dict[str, Any]:
        """The metrics, and of each instance a checksum of its mask and its score."""
        results = [(zlib.crc32(r["segmentation"]["counts"].encode()), r["score"]) for r in self.evaluator.results]
        return {"metrics": self.metrics, "results": results}


def _predictor() -> Callable[[dict[str, Any]], Any]:
    """From a network's outputs to an image's instances, as the checkout's training predicts them."""
    old = find_spec("raytune_m2f.model") is None  # at 451fa21
    network_type: Any = import_module("model" if old else "raytune_m2f.model").MultiTaskMaskFormer
    outputs_type = import_module("model.transformer_decoder" if old else "raytune_m2f.model").Outputs

    class Network(network_type):  # type: ignore[misc]  # of this checkout or of the other
        size_divisibility = 32

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)

        def forward(self, images: Any) -> Any:
            return self.outputs

    config = import_module("raytune_m2f.config").Config()
    network, images, sizes = Network(), [torch.zeros(1, 1, 1).expand(3, HEIGHT, WIDTH)], [(HEIGHT, WIDTH)]

    def instances(outputs: dict[str, Any]) -> Any:
        network.outputs = outputs_type(**outputs)
        if old:
            return network.predict(images, sizes, max_instances=QUERIES)[0]
        return import_module("raytune_m2f.learner.prediction").predict(network, config, images, sizes)[0]

    return instances


def worker(root: str, images: int) -> None:
    """Do what each line asks for, a method and its arguments, by the code in `root`."""
    sys.path.insert(0, root)
    torch.set_num_threads(1)
    with torch.no_grad():
        evaluation = Evaluation(images)
        evaluation.process(0, 1)  # to warm up
        evaluation.evaluator.reset()
        for line in sys.stdin:
            method, *arguments = json.loads(line)
            print(json.dumps(getattr(evaluation, method)(*arguments)), flush=True)


class Checkout:
    """A worker that runs the code of one checkout."""

    def __init__(self, root: Path, images: int):
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.evaluation", "--worker", str(root), "--images", str(images)],
            env={**os.environ, **threads, "PYTHONPATH": str(HERE)},
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, method: str, *arguments: int) -> dict[str, Any]:
        stdin, stdout = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        print(json.dumps([method, *arguments]), file=stdin, flush=True)
        answer: dict[str, Any] = json.loads(stdout.readline())
        return answer

    def close(self) -> None:
        self._process.communicate()


def differences(before: dict[str, Any], after: dict[str, Any]) -> str:
    """How far what two checkouts found differs."""
    pairs = list(zip(before["results"], after["results"], strict=True))
    moved = sum(a[0] != b[0] for a, b in pairs)
    masks = Counter(a[0] for a, _ in pairs) - Counter(b[0] for _, b in pairs)
    score = max(abs(a[1] - b[1]) for a, b in pairs)
    names = before["metrics"].keys() & after["metrics"].keys()
    metric = max(abs(before["metrics"][name] - after["metrics"][name]) for name in names)
    return (
        f"{len(pairs)} instances: masks that differ {masks.total()}, that changed places {moved}; "
        f"scores by up to {score:.1e}; "
        f"{len(names)} metrics by up to {metric:.1e} ({len(before['metrics'])} and {len(after['metrics'])} metrics)"
    )


def compare(before: Checkout, after: Checkout, images: int, pairs: int) -> None:
    """Print what the two need: `pairs` groups of the images in turn, then the evaluation of all so many times."""
    times: dict[Checkout, dict[str, list[float]]] = {c: {stage: [] for stage in STAGES} for c in (before, after)}
    bounds = [images * number // pairs for number in range(pairs + 1)]
    requests: list[tuple[str, tuple[int, ...], int]] = [
        ("process", group, group[1] - group[0]) for group in pairwise(bounds)
    ]
    requests += [("evaluate", (), images)] * pairs
    memory = {}
    for number, (method, arguments, count) in enumerate(requests):
        if number == pairs:
            memory = {checkout: checkout.ask("memory") for checkout in (before, after)}
        for checkout in (before, after) if number % 2 else (after, before):
            for stage, seconds in checkout.ask(method, *arguments).items():
                times[checkout][stage].append(seconds / count)
    for each in times.values():
        each["whole"] = [sum(parts) for parts in zip(each["masks"], each["process"], each["evaluate"], strict=True)]
        each["without product"] = [a - b for a, b in zip(each["whole"], each["product"], strict=True)]
    for stage in times[before]:
        print(f"{stage:18}", Pairs(times[before][stage], times[after][stage]))
    for name, mib in memory[before].items():
        print(f"{'MiB, ' + name:18} {mib:9.1f}    {memory[after][name]:9.1f}")
    print(differences(before.ask("found"), after.ask("found")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--against", type=Path, default=HERE, help="the checkout to compare with; this one, if not given"
    )
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--pairs", type=int, default=10, help="groups of the images, each done by both in turn")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, options.images)
        return
    before, after = Checkout(options.against.resolve(), options.images), Checkout(HERE, options.images)
    print(f"CPU time of an image: {options.against}, this checkout; {options.images} images, {options.pairs} pairs")
    compare(before, after, options.images, options.pairs)
    before.close()
    after.close()


if __name__ == "__main__":
    main()
