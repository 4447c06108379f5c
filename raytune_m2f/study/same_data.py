"""Whether a study goes on with the data that it began with: other labels are refused, other numbers are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raytune_m2f.config import Config
from raytune_m2f.data.compare import fingerprint, label_differences
from raytune_m2f.errors import StudyError


def data_fingerprints(config: Config) -> dict[str, Any]:
    """The fingerprint of every registered annotation file that is on this machine, by the name of its data set."""
    found = {name: fingerprint(file) for name, file in _files(config).items()}
    return {name: known for name, known in found.items() if known is not None}


def compare_data(config: Config, recorded: dict[str, Any], study: str) -> list[str]:
    """Notes on annotation files that have changed since the study began.

    Args:
        recorded: `data_fingerprints` then.

    Raises:
        StudyError: their labels have.
    """
    notes, problems = [], []
    for name, file in _files(config).items():
        before = recorded.get(name)
        now = fingerprint(file, before) if before is not None else None
        if before is None or now is None or now == before:
            continue
        heads = config.value("DATASETS.SUBCATEGORIES")
        problems += [f"{file}: {text}" for text in label_differences(before, now, heads)]
        notes.append(
            f"{file} has changed since the study began ({before['images']} images and {before['annotations']} "
            f"annotations then, {now['images']} and {now['annotations']} now): new scores are not of the same data"
        )
    if problems:
        raise StudyError(
            f"the data of {study} have other labels than when it began, so its trials cannot go on:\n  "
            + "\n  ".join(problems)
            + "\nGive the study its data back, or begin a new one with `raytune-m2f tune`."
        )
    return notes


def _files(config: Config) -> dict[str, Path]:
    names = dict.fromkeys((*config.DATASETS.TRAIN, *config.DATASETS.TEST))
    registered = config.DATASETS.REGISTER
    return {name: Path(registered[name].annotations) for name in names if name in registered}
