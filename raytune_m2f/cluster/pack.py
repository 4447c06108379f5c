"""What a job takes along: the configuration and the search space, in one folder with the user's files (send.py).

Data and weights stay on the cluster, so the paths to them are as its nodes see them: the client's disk means nothing
there. A path that starts with a $VARIABLE is sent as it stands, for the nodes to fill in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.config import Config
from raytune_m2f.config.build import build, in_one_message
from raytune_m2f.config.load import file_layers, override_layers
from raytune_m2f.config.nested import merge
from raytune_m2f.config.paths import is_path
from raytune_m2f.config.shipped import find_config
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import ConfigError, SearchSpaceError
from raytune_m2f.tuning import SearchSpace, load_space
from raytune_m2f.tuning.space import packaged_spaces

CONFIG, SPACE = "config.yaml", "space.yaml"


def pack_config(path: Path, overrides: Sequence[str], folder: Path) -> Config:
    """Write the configuration as one file: the files that it builds on joined, the overrides applied.

    Returns:
        it, to check a search space with; its paths are not to be used here, but for the files of DATASETS.IMPORT,
        which are the caller's to pack.

    Raises:
        ConfigError: it is wrong, or a path in it would mean this machine.
    """
    layers = [*file_layers(find_config(path), ()), *override_layers(overrides)]
    checked = build(Config, [replace(layer, values=_change_paths(layer.values, _filled_in)) for layer in layers])
    merged: dict[Any, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
    _refuse_own_paths(path, merged)
    if checked.DATASETS.IMPORT:  # by name: the job's folder is another one when the study is resumed
        names = [Path(name).stem if name.endswith(".py") else name for name in checked.DATASETS.IMPORT]
        merged["DATASETS"] = {**merged["DATASETS"], "IMPORT": names}
    (folder / CONFIG).write_text(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return checked


def pack_space(name: str, folder: Path, config: Config | None = None) -> str:
    """Write a search space of the user's; one that ships with the package is there already.

    Args:
        config: what it is checked for; None checks it by itself.
    Returns:
        how the job names it.

    Raises:
        SearchSpaceError: there is no such space, or it is wrong.
    """
    known = packaged_spaces()
    if config is not None:
        space = load_space(name, config)
    else:
        space = SearchSpace.from_dict(read_yaml(known.get(name, Path(name)), SearchSpaceError), source=name)
    if name in known:
        return name
    (folder / SPACE).write_text(yaml.safe_dump(space.to_dict(), sort_keys=False), encoding="utf-8")
    return SPACE


def _change_paths(values: Mapping[Any, Any], change: Callable[[str, str], str], prefix: str = "") -> dict[Any, Any]:
    """A copy in which `change` has seen (dotted key, path) of every path."""
    changed: dict[Any, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            changed[key] = _change_paths(value, change, f"{dotted}.")
        else:
            names_file = isinstance(value, str) and is_path(dotted, value)
            changed[key] = change(dotted, value) if names_file else value
    return changed


def _filled_in(key: str, path: str) -> str:
    """A path to check the rest of the configuration with: the nodes' variables are not known here."""
    return path.replace("$", "/")


def _refuse_own_paths(source: Path, values: Mapping[Any, Any]) -> None:
    problems: list[str] = []

    def look(key: str, path: str) -> str:
        if not path.startswith(("/", "$")):
            problems.append(
                f"{source}: {key}: got {path!r}, which a node would look for elsewhere. Allowed in a job: an absolute "
                "path as the nodes see it, or one that starts with a $VARIABLE that is set there"
            )
        return path

    _change_paths(values, look)
    if problems:
        raise ConfigError(in_one_message(problems))
