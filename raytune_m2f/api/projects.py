"""`init`: from the export of an annotation tool to annotations in our form, a configuration and a search space."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raytune_m2f.errors import InputError

if TYPE_CHECKING:
    from raytune_m2f.project.init import Project

log = logging.getLogger(__name__)

LocalPath = str | os.PathLike[str]


def init(
    annotations: LocalPath | Sequence[LocalPath],
    output: LocalPath,
    images: LocalPath | Sequence[LocalPath] = (),
    *,
    subcategories: Sequence[str] = (),
    val: float | None = None,
    group_by: str | None = None,
    seed: int = 0,
    device: Literal["cpu", "gpu"] | None = None,
) -> Project:
    """Read an export, and write data/train.json, data/val.json, config.yaml and space.yaml; see docs/init.md.

    Args:
        annotations: the file, or folder, of an export; of two files the first trains, the second scores.
        output: folder to make. Files in it that are not from here, or were changed since, are not written over.
        images: the folder of its images, or folders; none: those of the annotations.
        subcategories: "NAME=PLACE" or "PLACE" of each head, such as "ripeness=attributes.ripeness"; ["none"] for no
            head. Empty: the fields that are labels beyond doubt.
        val: share of the images that score, above 0 and below 1. None: the parts of the export, else 0.2.
        group_by: what keeps images together, all in train or all in val: a field of the images, or a regular
            expression on their names whose group 1 is the group.
        seed: of the split.
        device: what will train; None: a GPU if this machine has one.

    Returns:
        what was read, decided and written.

    Raises:
        InputError: what was given is wrong, or nothing can be learnt from it; nothing is written.
    """
    if val is not None and not 0 < val < 1:
        raise InputError(f"val: got {val}, allowed: a share above 0 and below 1, such as 0.2")
    if device not in (None, "cpu", "gpu"):
        raise InputError(f"device: got {device!r}, allowed: 'cpu' or 'gpu'")
    if isinstance(subcategories, str):
        raise InputError(f"subcategories: got the text {subcategories!r}, allowed: a list, such as [{subcategories!r}]")
    from raytune_m2f.project.dialects import read_export  # with numpy and pycocotools
    from raytune_m2f.project.init import init_project

    if not _several(annotations):
        raise InputError("annotations: got an empty list, allowed: one path or more")
    export = read_export(_several(annotations), _several(images))
    log.info("read %s: %d images", export.dialect, len(export.pictures))
    return init_project(
        export,
        Path(output),
        device=device or _device(),
        subcategories=subcategories,
        val=val,
        group_by=group_by,
        seed=seed,
    )


def _several(paths: LocalPath | Sequence[LocalPath]) -> list[Path]:
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    return [Path(path) for path in given]


def _device() -> Literal["cpu", "gpu"]:
    import torch

    return "gpu" if torch.cuda.is_available() else "cpu"
