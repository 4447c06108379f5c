"""model.pt2, which torch.export.load reads: any number of images at once, of one size.

model.pt2   the network
model.json  inputs, outputs, sizes, categories
example.py  from an image to instances, with torch and numpy
README.md   the same in words
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raytune_m2f.formats.graph import IMAGES, describe, graph_of, require_same, samples, size_of, write_beside

if TYPE_CHECKING:
    from raytune_m2f.export import ExportedModel

MODEL = "model.pt2"


def write(exported: ExportedModel, folder: Path) -> None:
    """Write the directory, load it by torch.export.load, and compare.

    Args:
        folder: an empty one.

    Raises:
        ModelError: it is a network of detectron2's, or what was written computes something else.
    """
    graph = graph_of(exported)
    size, fits = size_of(exported.config, graph.network.size_divisibility)
    shapes = {IMAGES: {0: torch.export.Dim("batch", min=1, max=2**16)}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch about itself
        torch.export.save(torch.export.export(graph, (samples(size)[:2],), dynamic_shapes=shapes), folder / MODEL)
        loaded = torch.export.load(folder / MODEL).module()

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(loaded(images).values())

    require_same(graph, size, run, MODEL)
    description = describe(exported, size, graph, file=MODEL)
    write_beside(folder, description, exported, fits=fits, runtime="`torch.export.load`", needs="torch and numpy")
