"""CPU time of an export's network as a graph, beside the same network in torch, in turn: one thread each.

    python -m benchmarks.exported_graph MODEL GRAPH [--batch 1] [--pairs 15] [--threads 1]

MODEL is an exported model, GRAPH what `export --format onnx` (or torch) wrote of it. Random images; both compute
masks, scores and the logits of every head.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import alternate
from raytune_m2f.export import load_export
from raytune_m2f.formats.example import Run, load
from raytune_m2f.formats.graph import graph_of


def loaded(folder: Path, threads: int) -> tuple[Run, dict[str, Any]]:
    """As example.py loads it, but for onnxruntime's threads."""
    run, description = load(folder)
    if not description["file"].endswith(".onnx"):
        return run, description
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    names = list(description["outputs"])
    session = onnxruntime.InferenceSession(str(folder / description["file"]), options, ["CPUExecutionProvider"])
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True)), description


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("graph", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = graph_of(load_export(options.model, torch.device("cpu")))
    run, description = loaded(options.graph, options.threads)
    shape = options.batch, *description["input"]["shape"][1:]
    images = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)

    def in_torch() -> None:
        with torch.inference_mode():
            network(torch.from_numpy(images))

    pairs = alternate(in_torch, lambda: run(images), options.pairs)
    print(f"{' x '.join(map(str, shape))}, torch and graph: {pairs}")


if __name__ == "__main__":
    main()
