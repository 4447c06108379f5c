"""A configuration from a YAML file, the files it builds on, and overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_m2f.config.build import Layer, build, in_one_message
from raytune_m2f.config.keys import known_keys, shown
from raytune_m2f.config.paths import absolute, refuse_untrusted, resolve_paths
from raytune_m2f.config.schema import Config
from raytune_m2f.config.shipped import advice, find_config, shipped_config
from raytune_m2f.config.yaml_file import flatten, nest, parse_value, read_yaml
from raytune_m2f.errors import ConfigError

BASE_KEY = "_BASE_"
"""detectron2's key for the file that a file builds on."""
LONGEST_CHAIN = 20
"""Files that build on each other; Mask2Former's longest chain has 4."""
MOST_PARTS = 16
"""Of a dotted key; no key has more than 6."""


Overrides = Sequence[str] | Mapping[str, Any]
"""`KEY=VALUE`, the value in YAML; or dotted keys with their values."""


def load_config(path: str | Path, overrides: Overrides = (), *, trust: bool = True) -> Config:
    """The configuration of a YAML file.

    Args:
        path: the file, or the name of one that comes with the package (see `shipped.py`); its `_BASE_`, a path
            relative to it or such a name, is read first, and so on.
        overrides: they win over the files. Relative paths in them start at the working directory, those of a file at
            the file's folder.
        trust: whether the Python files of DATASETS.IMPORT may run; of a file that is not the user's they may not.

    Raises:
        ConfigError: naming the file and every unknown key, wrong value and clash.
    """
    layers = [*file_layers(find_config(path), ()), *override_layers(overrides)]
    for layer in layers if not trust else ():
        refuse_untrusted(resolve_paths(layer.values, layer.folder)[0], layer.origin)
    return build(Config, layers)


def config_of(cfg: Mapping[str, Any]) -> Config:
    """What of a configuration of detectron2's is ours, checked: the network and its tests.

    Raises:
        ConfigError: a value is wrong, or clashes with another.
    """
    known = known_keys(Config)
    ours = ("MODEL.", "TEST.", "DATASETS.SUBCATEGORIES")
    values = {key: value for key, value in flatten(cfg).items() if key in known and key.startswith(ours)}
    return Config().with_values(values, source="cfg")


def file_layers(path: Path, above: tuple[Path, ...]) -> list[Layer]:
    """The layers of a file, its base's first."""
    values = read_yaml(path, ConfigError)
    chain = (*above, path.resolve())
    if path.resolve() in above:
        raise ConfigError(f"{above[-1]}: {BASE_KEY}: a circle: {' -> '.join(map(str, chain))}")
    if len(chain) > LONGEST_CHAIN:
        raise ConfigError(f"{chain[0]}: {BASE_KEY}: got more than {LONGEST_CHAIN} files that build on each other")
    base = values.pop(BASE_KEY, None)
    own = Layer(str(path), values, path.parent)
    if base is None:
        return [own]
    return [*file_layers(_base_path(base, path), chain), own]


def _base_path(base: object, path: Path) -> Path:
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"{path}: {BASE_KEY}: got {base!r}, allowed: the path of one YAML file, relative to this file"
        )
    try:
        base_path = Path(absolute(base, path.parent))
    except (ValueError, RuntimeError) as problem:  # RuntimeError: the home of an unknown ~user
        raise ConfigError(f"{path}: {BASE_KEY}: {problem}") from None
    found = base_path if os.path.isfile(base_path) else shipped_config(base)  # a name may be too long for a file
    if found is None:
        raise ConfigError(f"{path}: {BASE_KEY}: got {base!r}, but there is no file {base_path}. {advice(base)}")
    return found


def override_layers(overrides: Overrides) -> list[Layer]:
    if isinstance(overrides, Mapping):
        return [Layer("overrides", nest(key, value), Path.cwd()) for key, value in overrides.items()]
    layers: list[Layer] = []
    problems: list[str] = []
    for override in overrides:
        key, separator, text = override.partition("=")
        try:
            if not (separator and key.strip()):
                raise ValueError("allowed: KEY=VALUE, for example SOLVER.BASE_LR=0.0002")
            if key.count(".") >= MOST_PARTS:
                raise ValueError(f"a key of {key.count('.') + 1} parts; no key has so many")
            layers.append(Layer("command line", nest(key.strip(), parse_value(text)), Path.cwd()))
        except ValueError as problem:
            problems.append(f"command line: got {shown(override)}; {problem}")
    if problems:
        raise ConfigError(in_one_message(problems))
    return layers
