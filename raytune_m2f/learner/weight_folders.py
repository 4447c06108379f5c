"""Directories of weights: of Hugging Face transformers or exports of ours, on disk or on the Hugging Face Hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raytune_m2f.errors import MissingDependencyError, ModelError
from raytune_m2f.progress import still

log = logging.getLogger(__name__)

HUB = "hf://"
INDEX = ".index.json"
FILES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
    "model.pth",
)
"""What weights are called in a directory, the first that is there: transformers' names, whole or in parts, and ours."""
CONFIG, PIXELS = "config.json", "preprocessor_config.json"
MODEL_TYPE = "mask2former"

Find = Callable[[str], Path | None]
"""The path of a file of the directory, by its name; None if it has no such file."""


def is_folder(source: str) -> bool:
    """Whether this MODEL.WEIGHTS is a directory, here or on the Hub."""
    return source.startswith(HUB) or ("://" not in source and source != "" and Path(source).is_dir())


def check_folder(source: str) -> None:
    """Refuse a directory without weights, and the Hub where its package is missing. Nothing is downloaded.

    Raises:
        ModelError, MissingDependencyError: as `weight_paths`.
    """
    if source.startswith(HUB):
        _hub_package(source)
    else:
        weight_paths(source)


def weight_paths(source: str) -> list[Path]:
    """The files that hold the weights of a directory: one, or the parts of a large model.

    Args:
        source: path of a directory, or hf://owner/name[@revision]. What is downloaded is kept in the cache of
            huggingface_hub (HF_HOME); what is there already is used, and the network is not asked.

    Raises:
        ModelError: it has no weights, or they are not of a Mask2Former, or cannot be downloaded.
        MissingDependencyError: huggingface_hub is not installed.
    """
    if not source.startswith(HUB):
        found = _weights(_in_folder(source), source)
    else:
        found = _weights(_on_hub(source, local=True), source)
        if not found:
            with still(log, "downloading"):
                found = _weights(_on_hub(source, local=False), source)
    if not found:
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} has no weights: none of {', '.join(FILES)} is there. Give the directory of an "
            "export, or of a Mask2Former that transformers saved, or a file of weights."
        )
    return found


def pixels_of(source: str) -> tuple[list[float], list[float]] | None:
    """Mean and spread of red, green and blue in 0..255 in the training, as a directory says it; None if it does not."""
    if not is_folder(source):
        return None
    path = (_on_hub(source, local=True) if source.startswith(HUB) else _in_folder(source))(PIXELS)
    content = _read(path, source) if path else {}
    mean, spread = content.get("image_mean"), content.get("image_std")
    scale = 1 / content.get("rescale_factor", 1 / 255) if content.get("do_rescale", True) else 1.0
    if not (isinstance(mean, list) and isinstance(spread, list) and len(mean) == len(spread) == 3):
        return None
    return [round(value * scale, 3) for value in mean], [round(value * scale, 3) for value in spread]


def _weights(find: Find, source: str) -> list[Path]:
    """Empty if there are none, or not all of their parts."""
    for name in FILES:
        if (path := find(name)) is None:
            continue
        if config := find(CONFIG):
            _require_mask2former(_read(config, source), source)
        find(PIXELS)  # of the Hub: `pixels_of` looks for it in the cache
        if not name.endswith(INDEX):
            return [path]
        parts = _read(path, source).get("weight_map")
        files = sorted({str(part) for part in parts.values()}) if isinstance(parts, dict) else []
        if any(Path(file).name != file for file in files):
            raise ModelError(f"MODEL.WEIGHTS = {source!r}: {path} names files outside the directory.")
        paths = [found for file in files if (found := find(file))]
        return paths if len(paths) == len(files) else []
    return []


def _require_mask2former(config: dict[str, Any], source: str) -> None:
    kind = config.get("model_type")
    if kind != MODEL_TYPE:
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} is a {kind} of transformers', allowed: a {MODEL_TYPE} "
            "(Mask2FormerForUniversalSegmentation)."
        )
    if config.get("pre_norm"):
        raise ModelError(
            f"MODEL.WEIGHTS = {source!r} normalises before each block (pre_norm in its {CONFIG}), which is not done "
            "here: no published Mask2Former does."
        )


def _read(path: Path, source: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"MODEL.WEIGHTS = {source!r}: {path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"MODEL.WEIGHTS = {source!r}: {path} holds a {type(content).__name__}, allowed: an object.")
    return content


def _in_folder(source: str) -> Find:
    def find(name: str) -> Path | None:
        path = Path(source, name)
        return path if path.is_file() else None

    return find


def _hub_package(source: str) -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise MissingDependencyError(
            f"MODEL.WEIGHTS = {source!r} needs huggingface_hub, which is not installed. "
            "pip install 'raytune-m2f[transformers]', or give the path of the downloaded directory."
        ) from None
    return huggingface_hub


def _on_hub(source: str, *, local: bool) -> Find:
    """Files of a repository: from the cache alone, or downloaded to it."""
    hub = _hub_package(source)
    from huggingface_hub import errors

    repository, _, revision = source.removeprefix(HUB).partition("@")

    def find(name: str) -> Path | None:
        try:
            return Path(hub.hf_hub_download(repository, name, revision=revision or None, local_files_only=local))
        except errors.LocalEntryNotFoundError as error:  # not in the cache; and the network is not to be had
            if local:
                return None
            raise _unreachable(source, error) from None
        except errors.EntryNotFoundError:
            return None
        except errors.GatedRepoError:
            why = "its owner gives it to those only who ask for it: log in by `hf auth login` and accept its terms"
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
            kind = "revision" if isinstance(error, errors.RevisionNotFoundError) else "repository"
            why = f"there is no such {kind}, or it is private: log in by `hf auth login`"
        except (OSError, ValueError, errors.HfHubHTTPError) as error:
            raise _unreachable(source, error) from None
        raise ModelError(f"MODEL.WEIGHTS = {source!r}: {why}.")

    return find


def _unreachable(source: str, error: Exception) -> ModelError:
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error.__cause__ or error).__name__
    return ModelError(
        f"MODEL.WEIGHTS = {source!r}: it is not in the cache of this machine ({constants.HF_HUB_CACHE}) and cannot be "
        f"downloaded from {constants.ENDPOINT} ({reason}). Check the network, or download it elsewhere "
        f"(hf download {source.removeprefix(HUB).partition('@')[0]} --local-dir DIR) and give the directory."
    )
