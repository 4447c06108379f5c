"""The files of an export: read the checkpoint, write them, and detect whether somebody has changed them since."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.errors import CheckpointError, ModelError, first_of
from raytune_m2f.storage.address import is_address
from raytune_m2f.storage.files import checksum_of, is_ours, is_temporary, newest, sealed
from raytune_m2f.training import checkpoint

WEIGHTS, MODEL = "model.safetensors", "model.pth"
CONFIG, CATEGORIES, METRICS = "config.yaml", "categories.json", "metrics.json"
README = "README.md"

_CHECKSUMS = "<!-- By these checksums the next export knows that nobody has changed its files, and may replace them:\n"


def read_portable(path: Path) -> checkpoint.Checkpoint:
    """Read a checkpoint to export.

    Returns:
        Its content, with the keys `checkpoint.PORTABLE`.

    Raises:
        CheckpointError: the file is damaged.
        ModelError: it is not there, or is no checkpoint of an evaluated model.
    """
    if not path.is_file():
        raise ModelError(f"{path.parents[1]} has no checkpoints/{path.name}: nothing was evaluated or kept there yet.")
    state = checkpoint.load(path)
    wrong = [key for key in checkpoint.PORTABLE if not isinstance(state.get(key), dict)]
    if not wrong:
        wrong += [] if are_weights(state["model"]) else ["model"]
        wrong += [] if isinstance(state["report"].get("iteration"), int) else ["report"]
    if wrong:
        raise ModelError(
            f"{path} is no checkpoint of an evaluated model: {' and '.join(map(repr, wrong))} in it "
            f"{'is' if len(wrong) == 1 else 'are'} missing or of another type."
        )
    return state


def is_whole(weights: str) -> bool:
    """Whether a checkpoint can be exported; one on a store is not read and assumed to be whole."""
    if is_address(weights):
        return True
    try:
        read_portable(Path(weights))
    except (CheckpointError, ModelError):
        return False
    return True


def are_weights(content: object) -> bool:
    """Whether `content` is a state dict."""
    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def write_model(folder: Path, state: checkpoint.Checkpoint, *, source: str) -> None:
    """Write all files of an export but its README.md.

    Args:
        folder: an empty one.
        state: of `read_portable`.
        source: the run, for errors.

    Raises:
        ConfigError, DatasetError: the checkpoint's configuration or categories cannot be used.
        CheckpointError: the weights cannot be written.
    """
    config = Config.from_dict(state["config"], source=source, only_shown=True)
    Categories.from_dict(state["categories"], source=source)
    checkpoint.save({"model": _versioned(state["model"])}, folder / MODEL)
    # a copy of each: safetensors takes no two tensors that share memory
    weights = {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in state["model"].items()}
    try:
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the weights {folder / WEIGHTS}: {error}. Free space there.") from error
    (folder / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
    (folder / CATEGORIES).write_text(json.dumps(state["categories"], indent=2) + "\n", encoding="utf-8")
    (folder / METRICS).write_text(json.dumps(state["report"], indent=2) + "\n", encoding="utf-8")


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of an export, on the CPU: model.safetensors, or model.pth where there is no other.

    Raises:
        ModelError: they hold no weights, or are not what the export wrote.
        CheckpointError: they are damaged.
    """
    file = newest(folder, WEIGHTS)
    if not file.is_file():
        return read_pth(folder)
    known = _checksums(newest(folder, README)).get(WEIGHTS)  # a changed byte would be weights all the same
    if known is not None and checksum_of(file) != known:
        raise ModelError(
            f"{folder / WEIGHTS} is damaged, or was changed since it was exported: {README} there has another checksum "
            f"of it. Copy or export it again; if you have changed it yourself, delete {README}."
        )
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read the weights {folder / WEIGHTS}: {error}") from error


def read_pth(folder: Path) -> dict[str, Tensor]:
    """The weights in an export's model.pth; see `read_weights`."""
    weights = checkpoint.load(newest(folder, MODEL))["model"]
    if not are_weights(weights):
        raise ModelError(f"{folder / MODEL} holds no weights: 'model' in it is no dict of tensors.")
    return dict(weights)


def write_card(folder: Path, text: str) -> None:
    """Write README.md, with the checksums of all other files there, by which the next export recognises them."""
    sums = "".join(f"{checksum_of(file)}  {file.name}\n" for file in sorted(folder.iterdir()))
    content = (text + _CHECKSUMS + sums).encode("utf-8", "backslashreplace")
    (folder / README).write_bytes(sealed(content, b" -->\n"))


def require_export(folder: Path) -> dict[str, str]:
    """Refuse a folder unless it is empty or holds an unchanged export; other files beside that may stay.

    Returns:
        The checksums of the export's files by their names, without its README.md; none if it is empty.

    Raises:
        ModelError: there are other files, or one of the export's was changed.
    """
    written = _checksums(folder / README)
    if not written and any(not is_temporary(path) for path in folder.iterdir()):
        raise ModelError(
            f"--output {folder} exists and is no export, or its {README} was changed: give a new or an empty directory."
        )
    for name, checksum in written.items():
        path = folder / name
        if path.is_symlink() or (path.exists() and (not path.is_file() or checksum_of(path) != checksum)):
            raise ModelError(
                f"--output {folder}: {name} was changed since it was exported: move it away, or give another directory."
            )
    return written


def require_room(folder: Path, earlier: dict[str, str], names: set[str]) -> None:
    """Refuse to write files where others would be lost, or where an earlier export's would stay beside them.

    Args:
        folder: where they are to go.
        earlier: of `require_export`.
        names: of the files, without README.md.

    Raises:
        ModelError: a file there is not of an export, or one of the earlier export would not be replaced.
    """
    foreign = sorted(name for name in names - set(earlier) if os.path.lexists(folder / name))
    if foreign:
        raise ModelError(
            f"--output {folder}: {', '.join(foreign)} would be written over, and no export has written it: move it "
            "away, or give another directory."
        )
    left = sorted(name for name in set(earlier) - names if os.path.lexists(folder / name))
    if left:
        raise ModelError(
            f"--output {folder} holds an export of another format ({', '.join(first_of(left, 3))}), whose files would "
            "stay beside the new ones: give another directory, or delete it first."
        )


def _checksums(readme: Path) -> dict[str, str]:
    """The files of an export by the names in its README.md; none if that is not as we wrote it."""
    if readme.is_symlink() or not is_ours(readme):
        return {}
    lines = readme.read_text(encoding="utf-8").partition(_CHECKSUMS)[2].splitlines()[:-1]  # the last is the seal
    return {name: checksum for checksum, name in (line.split(maxsplit=1) for line in lines)}


def _versioned(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """With the version of Mask2Former's names, without which Mask2Former takes them for older ones and renames them."""
    versioned = OrderedDict(state)
    versioned._metadata = {"sem_seg_head": {"version": 2}}  # type: ignore[attr-defined]
    return versioned
