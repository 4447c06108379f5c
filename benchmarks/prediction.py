"""Prediction in two checkouts of this repository, in turn: CPU time of an image from its file to COCO results, and how
far the results of the two differ.

    python -m benchmarks.prediction OTHER_CHECKOUT MODEL IMAGES [--threads 1] [--pairs 15] [--limit 0]
        [--train | --written]

MODEL is an exported model, IMAGES a folder. With --train what is measured is a training's evaluation: the learner's
predictions, handed to the evaluator, of images that are in memory. With --written it is the whole of `predict`, in
seconds of a clock: from files to pictures and instances.json, instances from a score of 0.3 on.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from benchmarks.measure import Pairs

HERE = Path(__file__).resolve().parents[1]


def write_all(exported: Any, files: list[Path]) -> list[list[dict[str, Any]]]:
    """What `predict` does; the annotations of each image."""
    from raytune_m2f.predict import predict_files

    named = inspect.signature(predict_files).parameters
    score = {"min_score" if "min_score" in named else "score_threshold": 0.3}  # as checkouts before call it
    with tempfile.TemporaryDirectory() as folder:
        content = predict_files(exported, files, Path(folder), **cast(Any, score))
    found: list[list[dict[str, Any]]] = [[] for _ in content["images"]]
    for annotation in content["annotations"]:
        found[annotation["image_id"] - 1].append(annotation)
    return found


def worker(model: str, images: str, limit: int, threads: int, train: bool, written: bool) -> None:
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

    clock = time.perf_counter if written else time.process_time
    for _ in sys.stdin:
        start = clock()
        if written:
            found = write_all(exported, files)
        else:
            found = [instances_to_results(f, image_id=0, categories=exported.categories) for f in predicted()]
        seconds = (clock() - start) / len(files)
        print(json.dumps({"seconds": seconds, "found": found}), flush=True)


class Checkout:
    """A worker that runs the code of one checkout."""

    def __init__(self, root: Path, options: argparse.Namespace):
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(options.threads)}
        words = ["--worker", options.model, options.images, "--threads", options.threads, "--limit", options.limit]
        words += ["--train"] if options.train else ["--written"] if options.written else []
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
        """Seconds of an image, of the CPU or of a clock."""
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
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--train", action="store_true")
    kinds.add_argument("--written", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.model, options.images, options.limit, options.threads, options.train, options.written)
        return
    before, after = Checkout(options.other.resolve(), options), Checkout(HERE, options)
    before.seconds(), after.seconds()
    times: dict[Checkout, list[float]] = {before: [], after: []}
    for number in range(options.pairs):
        for checkout in (before, after) if number % 2 else (after, before):
            times[checkout].append(checkout.seconds())
    kind = "train" if options.train else "written" if options.written else "files"
    print(f"{kind}, {options.threads} threads: {Pairs(times[before], times[after])}")
    print(differences(before, after))
    before.close()
    after.close()


if __name__ == "__main__":
    main()
