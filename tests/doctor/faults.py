"""A sound experiment, and copies of it with a fault: what the tests of the doctor's checks share."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raytune_m2f.config import Config, load_config
from raytune_m2f.doctor.examine import CHECKS, examine
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject

Content = dict[str, Any]
Change = Callable[[Content], None]
PARTS = ("train", "val")


def sound_config(dataset: Mapping[str, Path], **values: Any) -> Config:
    """demo.yaml on a data set of `generate_shapes`, with other `values` (SOLVER__MAX_ITER=5)."""
    registered = {
        f"shapes_{part}": {
            "annotations": str(dataset[f"{part}_annotations"]),
            "images": str(dataset[f"{part}_images"]),
        }
        for part in PARTS
    }
    own = {key.replace("__", "."): value for key, value in values.items()}
    return load_config("demo", {"DATASETS.REGISTER": registered, "SOLVER.IMS_PER_BATCH": 4, **own})


def copied(dataset: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """A copy of the files of a data set, to be changed."""
    new = {}
    for part in PARTS:
        new[f"{part}_images"] = folder / part
        new[f"{part}_annotations"] = folder / f"{part}.json"
        shutil.copytree(dataset[f"{part}_images"], new[f"{part}_images"])
        shutil.copy(dataset[f"{part}_annotations"], new[f"{part}_annotations"])
    return new


def changed(dataset: Mapping[str, Path], folder: Path, change: Change, *parts: str) -> dict[str, Path]:
    """A copy whose annotation files of `parts` are changed."""
    new = copied(dataset, folder)
    for part in parts:
        content = json.loads(new[f"{part}_annotations"].read_text())
        change(content)
        new[f"{part}_annotations"].write_text(json.dumps(content))
    return new


def named(prefix: str) -> tuple[Check, ...]:
    """The checks whose names begin so."""
    return tuple(check for check in CHECKS if check.name.startswith(prefix))


def found(subject: Subject | Config, prefix: str) -> list[Finding]:
    """What these checks say beside ok."""
    whole = subject if isinstance(subject, Subject) else Subject(subject)
    return [finding for finding in examine(whole, named(prefix)) if finding.level in ("warning", "problem")]


def the_one(subject: Subject | Config, prefix: str) -> Finding:
    """The only thing that these checks say beside ok, with a remedy."""
    (finding,) = found(subject, prefix)
    assert finding.remedy
    json.dumps(finding.to_dict())  # for --json
    return finding
