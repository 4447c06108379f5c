"""Initial weights from a file (`MODEL.WEIGHTS`): a checkpoint of ours, of Mask2Former, or a detectron2 backbone.

Whatever does not fit is named, never passed over in silence.
"""

from __future__ import annotations

import logging
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raytune_m2f.errors import ModelError

log = logging.getLogger(__name__)

QUERIES = ("query_feat.weight", "query_embed.weight")
DROPPED = "criterion.empty_weight"  # the reference stores its class weights; ours come from the configuration


@dataclass(frozen=True)
class Loaded:
    """What loading did: names of the network that kept their fresh values, and of the file that had no use."""

    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_weights(model: nn.Module, source: str) -> Loaded:
    """Load what fits from a weights file into the network.

    Args:
        source: path of a `.pth` or `.pkl` file.

    Raises:
        ModelError: no such file, not readable, or nothing in it fits.
    """
    state = read_state_dict(source)
    own = model.state_dict()
    if not any(name.startswith(("backbone.", "sem_seg_head.")) for name in state):
        state = {f"backbone.{name}": value for name, value in state.items()}  # a bare backbone
    fitted = {name: _fit(name, state[name], own[name]) for name in own if name in state}
    usable = {name: value for name, value in fitted.items() if value is not None}
    if not usable:
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r}: nothing in this file fits the network. It holds e.g. "
            f"{', '.join(sorted(state)[:3])}; the network e.g. {', '.join(sorted(own)[:3])}."
        )
    model.load_state_dict(usable, strict=False)
    fresh = tuple(name for name in own if name not in usable and not name.endswith("num_batches_tracked"))
    unused = tuple(name for name in state if name not in usable and name != DROPPED)
    _tell(source, fresh, unused)
    return Loaded(fresh, unused)


def read_state_dict(source: str) -> dict[str, Tensor]:
    """Read the tensors of a `.pth` or `.pkl` file; nothing else in it is executed.

    Raises:
        ModelError: no such file, or it holds no tensors.
    """
    path = Path(source)
    if "://" in source or not path.is_file():
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} is not a file on this machine. Download the weights and give their path, or "
            "set MODEL.WEIGHTS='' to train from scratch (then MODEL.RESNETS.NORM must be BN or GN to learn)."
        )
    try:
        content = _load_pickle(path) if path.suffix == ".pkl" else _load_torch(path)
    except Exception as error:  # pickle and torch raise many kinds
        raise ModelError(f"MODEL.WEIGHTS = {source!r} cannot be read: {error}") from error
    state = content.get("model", content) if isinstance(content, dict) else {}
    tensors = {name: torch.as_tensor(value) for name, value in state.items() if isinstance(value, np.ndarray | Tensor)}
    if not tensors:
        raise ModelError(f"MODEL.WEIGHTS = {source!r} holds no weights under 'model'.")
    return tensors


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _SafeUnpickler(file).load()


class _SafeUnpickler(pickle.Unpickler):
    """detectron2's .pkl files are pickled dicts of numpy arrays: only what these need may be loaded."""

    ALLOWED = frozenset(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ) | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"), ("collections", "OrderedDict")}

    def __init__(self, file: Any):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
        return super().find_class(module, name)


def _fit(name: str, value: Tensor, own: Tensor) -> Tensor | None:
    """The value in the network's shape: queries are cut or grown, anything else of another shape is left out."""
    if value.shape == own.shape:
        return value
    if name.endswith(QUERIES) and value.shape[1:] == own.shape[1:]:
        log.info("%s: %d queries in the file, %d in the network", name, len(value), len(own))
        return torch.cat((value[: len(own)], own[len(value) :].to(value)))
    return None


def _tell(source: str, fresh: tuple[str, ...], unused: tuple[str, ...]) -> None:
    if fresh:
        log.warning("%s has no fitting values for %d tensors, they start fresh: %s", source, len(fresh), _some(fresh))
    if unused:
        log.warning("%s holds %d tensors that have no use here: %s", source, len(unused), _some(unused))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
