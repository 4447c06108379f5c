"""Files of weights: from disk, torchvision, detectron2's model zoo or an address; nothing in them is executed."""

from __future__ import annotations

import io
import logging
import os
import pickle
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathManager, get_cache_dir
from torch import Tensor
from torchvision.models import WeightsEnum, get_weight

from raytune_m2f.errors import ModelError
from raytune_m2f.learner.file_kinds import STATE_DICT, in_short, not_weights
from raytune_m2f.progress_line import still

log = logging.getLogger(__name__)
logging.getLogger("iopath").setLevel(logging.CRITICAL)  # what it logs of a failure, our error says

TORCHVISION = "torchvision://"
DETECTRON2 = "detectron2://"
MODEL_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
SILENCE_S = 60.0
"""A server that says nothing for so long is given up; without this a blocked network would stop a trial for ever."""


def check_source(source: str) -> None:
    """Refuse what cannot be there, before anything is started. Nothing is downloaded.

    Raises:
        ModelError: no such file, one that holds no weights, or no such weights of torchvision.
    """
    if source.startswith(TORCHVISION):
        _torchvision_weights(source)
    elif source and "://" not in source:
        _refuse_other_files(source, _local_file(source))


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The tensors of `MODEL.WEIGHTS`, under the names that the file gives them.

    Args:
        source: path of a `.pth` or `.pkl` file, or an address (torchvision://, detectron2://, http://, https://).
            What is downloaded is kept in the caches of torch and iopath.

    Raises:
        ModelError: no such file, no download, or it holds no tensors.
    """
    if source.startswith(TORCHVISION):
        return _read_torchvision(source)
    path = _download(source) if "://" in source else _local_file(source)
    _refuse_other_files(source, path)
    try:
        content = _load_torch(path) if zipfile.is_zipfile(path) else _load_other(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, allowed: a dictionary of tensors. {STATE_DICT}")
        state = content["model"] if isinstance(content.get("model"), dict) else content
        tensors = {
            name: torch.as_tensor(value)
            for name, value in state.items()
            if isinstance(name, str) and isinstance(value, np.ndarray | Tensor)
        }
    except Exception as error:  # pickle and torch raise many kinds
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} cannot be read: {in_short(error)}{_once_more(source, path)}"
        ) from error
    if not tensors:
        raise ModelError(f"MODEL.WEIGHTS = {source!r} holds no weights under 'model'.")
    return tensors


def _refuse_other_files(source: str, path: Path) -> None:
    try:
        other = not_weights(path)
    except OSError as error:
        raise ModelError(f"MODEL.WEIGHTS = {source!r} cannot be read: {error.strerror}") from None
    if other:
        raise ModelError(f"MODEL.WEIGHTS = {source!r} cannot be read: it is {other}{_once_more(source, path)}")


def _once_more(source: str, path: Path) -> str:
    return f"; delete {path} to download it again" if "://" in source else ""


def _local_file(source: str) -> Path:
    path = Path(source)
    if not os.path.isfile(path):
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} is not a file on this machine. Give the path of weights that are here or an "
            "address (torchvision://ResNet50_Weights.IMAGENET1K_V2), or set MODEL.WEIGHTS='' to train from scratch "
            "(then the backbone's NORM must be BN or GN to learn)."
        )
    return path


def _download(source: str) -> Path:
    """The file of an address in iopath's cache (FVCORE_CACHE), where detectron2 finds and leaves its own too."""
    url = source.replace(DETECTRON2, MODEL_ZOO)
    cache = Path(get_cache_dir())
    paths = PathManager()
    paths.register_handler(HTTPURLHandler())
    try:
        if not url.startswith(MODEL_ZOO):
            cache /= urlsplit(url).netloc.replace(":", "_")  # iopath would take files of two hosts for one
        log.info("%s: from the cache in %s, or downloaded there", url, cache)
        with _impatient():
            return Path(paths.get_local_path(url, cache_dir=str(cache)))
    except (OSError, ValueError, HTTPException) as error:
        raise ModelError(_not_downloaded(source, url, error)) from None


def _read_torchvision(source: str) -> dict[str, Tensor]:
    weights = _torchvision_weights(source)
    log.info("%s: from the cache in %s, or downloaded there", weights.url, torch.hub.get_dir())
    try:
        with _impatient():
            return dict(weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True))
    except Exception as error:  # the network's, and torch's many kinds
        cached = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        if cached.exists():
            raise ModelError(
                f"MODEL.WEIGHTS = {source!r}: {cached} cannot be read ({in_short(error)}); delete it."
            ) from None
        raise ModelError(_not_downloaded(source, weights.url, error)) from None


def _torchvision_weights(source: str) -> WeightsEnum:
    name = source.removeprefix(TORCHVISION)
    try:
        return get_weight(name)
    except (ValueError, KeyError):
        # the class is one of ours: the configuration sees to it
        kind: Any = get_weight(f"{name.partition('.')[0]}.DEFAULT")
        names = ", ".join(f"{TORCHVISION}{weights}" for weights in type(kind))
        raise ModelError(f"MODEL.WEIGHTS = {source!r}: torchvision has no such weights; it has {names}.") from None


def _not_downloaded(source: str, url: str, error: Exception) -> str:
    return (
        f"MODEL.WEIGHTS = {source!r}: cannot be downloaded from {url} ({type(error).__name__}: {error}). Check the "
        "address and the network of this machine, or download the file elsewhere and give its path."
    )


@contextmanager
def _impatient() -> Iterator[None]:
    """Connections opened meanwhile fail when nothing comes for a while."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        with still(log, "downloading"):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _load_torch(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _load_other(path: Path) -> Any:
    """detectron2's pickles, whatever they are called, and torch's files of before 1.6."""
    if path.name.partition("?")[0].endswith(".pkl"):
        with path.open("rb") as file:
            return _SafeUnpickler(file).load()
    return _load_torch(path)


def _load_storage(content: bytes) -> Any:
    """In place of torch.storage._load_from_bytes, which would execute what it loads."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _SafeUnpickler(pickle.Unpickler):
    """A pickled dict of numpy arrays (detectron2) or tensors (Mask2Former's Swin): only what these need is loaded."""

    ALLOWED = frozenset(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ) | {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
        ("torch._utils", "_rebuild_tensor_v2"),
    }

    def __init__(self, file: Any):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
        return super().find_class(module, name)
