"""Prediction in two checkouts of this repository, in turn: CPU time of an image from its file to COCO results, and how
far the results of the two differ.

    python -m benchmarks.prediction OTHER_CHECKOUT MODEL IMAGES [--threads 1] [--pairs 15] [--limit 0] [--train]

MODEL is an exported model, IMAGES a folder. With --train what is measured is a training's evaluation: the learner's
predictions, handed to the evaluator, of images that are in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.measure import Pairs

HERE = Path(__file__).resolve().parents[1]


def worker(model: str, images: str, limit: int, threads: int, train: bool) -> None:
    """Predict all images whenever a line comes in; tell the CPU seconds and the results."""
    import torch

    from raytune_m2f.data import TestSample, read_image
    from raytune_m2f.data.images import IMAGE_SUFFIXES
    from raytune_m2f.evaluation import instances_to_results
    from raytune_m2f.export import load_export
    from raytune_m2f.learner.mask_former import MaskFormerLearner

    torch.set_num_threads(threads)
    exported = load_export(Path(model), torch.device("cpu"))
    files = sorted(file for file in Path(images).iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
    files = files[: limit or None]
    pixels = [read_image(file) for file in files] if train else []
    samples = [
        TestSample(exported.resized(p), 0, p.shape[0], p.shape[1], f) for p, f in zip(pixels, files, strict=False)
    ]
    learner = MaskFormerLearner(exported.config, cast(Any, exported.model))

    def predicted() -> Iterator[Any]:
        if not train:
            yield from (exported.predict_encoded(read_image(file)) for file in files)
            return
        with torch.no_grad():
            for sample in samples:
                yield learner.predict([sample])[0].to("cpu")

    for _ in sys.stdin:
        start = time.process_time()
        found = [instances_to_results(f, image_id=0, categories=exported.categories) for f in predicted()]
        seconds = (time.process_time() - start) / len(files)
        print(json.dumps({"seconds": seconds, "found": found}), flush=True)


class Checkout:
    """A worker that runs the code of one checkout."""

    def __init__(self, root: Path, options: argparse.Namespace):
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(options.threads)}
        words = ["--worker", options.model, options.images, "--threads", options.threads, "--limit", options.limit]
        words += ["--train"] if options.train else []
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), str(root), *map(str, words)],
            env=environment,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.found: list[list[dict[str, Any]]] = []

    def seconds(self) -> float:
        """CPU seconds of an image."""
        stdin, stdout = cast("IO[str]", self._process.stdin), cast("IO[str]", self._process.stdout)
        print(file=stdin, flush=True)
        answer = json.loads(stdout.readline())
        self.found = answer["found"]
        return float(answer["seconds"])

    def close(self) -> None:
        self._process.communicate()


def differences(before: Checkout, after: Checkout) -> str:
    """How far the results of two checkouts differ."""
    pairs = [(a, b) for x, y in zip(before.found, after.found, strict=True) for a, b in zip(x, y, strict=True)]
    masks = sum(a["segmentation"] != b["segmentation"] for a, b in pairs)
    score = max((abs(a["score"] - b["score"]) for a, b in pairs), default=0.0)
    return f"{len(pairs)} instances, masks that differ: {masks}, scores by up to {score:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("other", type=Path, help="the checkout to compare with")
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--limit", type=int, default=0, help="images; 0 = all")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.model, options.images, options.limit, options.threads, options.train)
        return
    before, after = Checkout(options.other.resolve(), options), Checkout(HERE, options)
    before.seconds(), after.seconds()
    times: dict[Checkout, list[float]] = {before: [], after: []}
    for number in range(options.pairs):
        for checkout in (before, after) if number % 2 else (after, before):
            times[checkout].append(checkout.seconds())
    print(f"{'train' if options.train else 'files'}, {options.threads} threads: {Pairs(times[before], times[after])}")
    print(differences(before, after))
    before.close()
    after.close()


if __name__ == "__main__":
    main()
