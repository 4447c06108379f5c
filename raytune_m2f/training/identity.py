"""Whether a checkpoint is of this training: the same labels, the same network, and of the same data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.engines import Engine
from raytune_m2f.errors import ConfigError, DatasetError
from raytune_m2f.training.checkpoint import Checkpoint, newest_first

log = logging.getLogger(__name__)

MOST_KEYS = 8


def require_same_training(state: Checkpoint, config: Config, engine: Engine, network: nn.Module, folder: Path) -> None:
    """Refuse to go on from a checkpoint of other labels or of another network; other data are worth a warning.

    Args:
        state: the checkpoint, of `folder`.
        config, engine, network: of this training.

    Raises:
        DatasetError: the labels differ.
        ConfigError: the network differs.
    """
    weights = next(iter(newest_first(folder)), folder)
    anew = f"start anew in another directory, with MODEL.WEIGHTS={weights} to take over what fits"
    known = Categories.from_dict(state["categories"], source=str(weights))
    if problems := other_labels(known, engine.categories):
        listed = "\n  ".join(problems)
        raise DatasetError(
            f"cannot go on from {weights}: the data have other labels than it was trained on.\n  {listed}\n"
            f"Give the data that it was trained on, or {anew}."
        )
    if other := _other_tensors(state["model"], network.state_dict()):
        raise ConfigError(
            f"cannot go on from {weights}: it is of another network, {len(other)} tensors differ, e.g. {other[0]}. "
            f"{_changed_keys(state['config'], config)}\nGive the values that it was trained with, or {anew}."
        )
    then, now = state.get("data"), engine.summary.identity  # not in checkpoints of before 2026-11-26
    if then is not None and then != now:
        log.warning(
            "the data have changed since the checkpoint: %s then; %s now. Scores of before and after are not of the "
            "same data.",
            _counts(then),
            _counts(now),
        )


def _other_tensors(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names that only one has, or that are of another shape."""
    names = dict.fromkeys((*own, *theirs))
    return [n for n in names if n not in own or n not in theirs or own[n].shape != theirs[n].shape]


def other_labels(before: Categories, now: Categories) -> list[str]:
    """What differs in names and their order, in words; ids may change, for no label depends on them."""
    pairs: list[tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]] = [("categories", before.names, now.names)]
    for head in dict.fromkeys((*before.subcategories, *now.subcategories)):
        pairs.append((f"subcategory {head!r}", before.subcategories.get(head), now.subcategories.get(head)))
    return [
        f"{what}: the checkpoint knows {_names(theirs)}; the data have {_names(ours)}"
        + (" (another order)" if sorted(theirs or ()) == sorted(ours or ()) else "")
        for what, theirs, ours in pairs
        if theirs != ours
    ]


def _names(names: tuple[str, ...] | None) -> str:
    return "none" if names is None else ", ".join(names)


def _changed_keys(before: Mapping[str, Any], config: Config) -> str:
    now = {key: value for key, value in config.flatten().items() if key.startswith("MODEL.") or key == "ENGINE"}
    then = Config.from_dict(before, source="checkpoint").flatten()
    changed = [f"{key} was {then[key]!r}, is {now[key]!r}" for key in now if key in then and then[key] != now[key]]
    return f"Of the configuration, {'; '.join(changed[:MOST_KEYS])}." if changed else ""


def _counts(data: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{name} {part['images']} images, {part['instances']} instances" for name, part in data.items())
