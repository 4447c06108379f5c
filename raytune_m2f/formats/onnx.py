"""model.onnx, which onnxruntime runs: any number of images at once, of one size.

model.onnx  the network; deformable attention is GridSample
model.json  inputs, outputs, sizes, categories
example.py  from an image to instances, with onnxruntime and numpy alone
README.md   the same in words
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raytune_m2f.errors import MissingDependencyError
from raytune_m2f.formats.graph import (
    IMAGES,
    Graph,
    Run,
    Size,
    describe,
    graph_of,
    require_same,
    samples,
    size_of,
    write_beside,
)

if TYPE_CHECKING:
    from raytune_m2f.export import ExportedModel

log = logging.getLogger(__name__)

MODEL = "model.onnx"
OPSET = 18


def write(exported: ExportedModel, folder: Path) -> None:
    """Write the directory, run it by onnxruntime, and compare.

    Args:
        folder: an empty one.

    Raises:
        ModelError: it is a network of detectron2's, or what onnxruntime computes is not the same.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
    """
    _require_packages()
    graph = graph_of(exported)
    size, fits = size_of(exported.config, graph.network.size_divisibility)
    log.info("writing %s for images of %d x %d pixels (height, width)", folder / MODEL, *size)
    names = _write_graph(graph, size, folder / MODEL)
    require_same(graph, size, _runner(folder / MODEL, names), MODEL)
    description = describe(exported, size, graph, file=MODEL)
    write_beside(folder, description, exported, fits=fits, runtime="ONNX Runtime", needs="onnxruntime and numpy")


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"--format onnx needs {error.name}, which is not installed: pip install 'raytune-m2f[onnx]'"
        ) from None


def _write_graph(graph: Graph, size: Size, file: Path) -> list[str]:
    """The names of the outputs."""
    images = samples(size)[:2]
    with torch.no_grad(), _quietly():
        names = list(graph(images))
        program = torch.onnx.export(
            graph,
            (images,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[IMAGES],
            output_names=names,
            dynamic_shapes={IMAGES: {0: torch.export.Dim("batch", min=1, max=2**16)}},
        )
        assert program is not None
        program.save(str(file))
    return names


def _runner(file: Path, names: Sequence[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(list(names), {IMAGES: images.numpy()})]

    return run


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks about itself."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx", "torch.export")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
