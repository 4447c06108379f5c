"""Formats that an exported model leaves in, beside its own (`export.py`).

transformers.py  a directory that Hugging Face transformers loads
onnx.py          model.onnx, which onnxruntime runs
torch_export.py  model.pt2, which torch.export.load reads
graph.py         the network as one graph of tensors, which these two write, and the files beside it
example.py       from an image to instances by such a graph: a file of the directory, copied into it

Each module has `write(exported, folder)`: it fills an empty folder, and checks what it wrote against the model.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raytune_m2f.export import ExportedModel

FORMATS = {
    "transformers": "raytune_m2f.formats.transformers",
    "onnx": "raytune_m2f.formats.onnx",
    "torch": "raytune_m2f.formats.torch_export",
}
"""Modules by the names of formats; imported when they are asked for, as their packages are large and optional."""


def write(name: str, exported: ExportedModel, folder: Path) -> None:
    """Write a model in another format.

    Args:
        name: one of FORMATS.
        folder: an empty one.

    Raises:
        ModelError: the model cannot be written so, what was written differs from it, or a package is missing.
    """
    import_module(FORMATS[name]).write(exported, folder)
