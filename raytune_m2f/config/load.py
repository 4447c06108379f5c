"""A configuration from a YAML file, the files it builds on, and overrides; and the files that come with the package."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from raytune_m2f.config.build import Layer, build
from raytune_m2f.config.keys import known_keys, short_repr
from raytune_m2f.config.paths import absolute, refuse_untrusted, resolve_paths
from raytune_m2f.config.schema import Config
from raytune_m2f.config.yaml_file import flatten, nest, parse_value, read_yaml, similar_file
from raytune_m2f.errors import ConfigError, closest, join_problems

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
        path: the file, or the name of one that comes with the package (see `shipped_configs`); its `_BASE_`, a path
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


def config_from_cfg(cfg: Mapping[str, Any]) -> Config:
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
    below = [] if base is None else file_layers(_base_path(base, path), chain)
    return [*below, Layer(str(path), values, path.parent)]


def _base_path(base: object, path: Path) -> Path:
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: {BASE_KEY}: got {base!r}, allowed: the path of one YAML file, relative to this one")
    try:
        base_path = Path(absolute(base, path.parent))
    except ValueError as problem:
        raise ConfigError(f"{path}: {BASE_KEY}: {problem}") from None
    found = base_path if os.path.isfile(base_path) else shipped_config(base)  # a name may be too long for a file
    if found is None:
        raise ConfigError(f"{path}: {BASE_KEY}: got {base!r}, but there is no file {base_path}. {_advice(base)}")
    return found


def override_layers(overrides: Overrides) -> list[Layer]:
    """Raises ConfigError, naming every override that is none."""
    if isinstance(overrides, Mapping):
        return [Layer("overrides", nest(key, value), Path.cwd()) for key, value in overrides.items()]
    layers, problems = [], []
    for override in overrides:
        key, separator, text = override.partition("=")
        try:
            if not (separator and key.strip()):
                raise ValueError("allowed: KEY=VALUE, for example SOLVER.BASE_LR=0.0002")
            if key.count(".") >= MOST_PARTS:
                raise ValueError(f"a key of {key.count('.') + 1} parts; no key has so many")
            layers.append(Layer("command line", nest(key.strip(), parse_value(text)), Path.cwd()))
        except ValueError as problem:
            problems.append(f"command line: got {short_repr(override)}; {problem}")
    if problems:
        raise ConfigError(join_problems(problems))
    return layers


def shipped_configs() -> dict[str, Path]:
    """Name to file: `small_data`, `maskformer2_R50_instance`, `detectron2/fruits_nuts_mask_rcnn`."""
    folder = Path(str(files("raytune_m2f"))) / "configs"
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))}


def shipped_config(name: str | Path) -> Path | None:
    """`small_data`, `small_data.yaml` and `configs/small_data.yaml` name the same one; None: there is none."""
    return shipped_configs().get(_bare(name))


def find_config(name: str | Path) -> Path:
    """The file that the user means: his own at this path, else the shipped one of this name.

    Raises:
        ConfigError: there is neither; with the names that there are.
    """
    own = Path(name)
    found = own if os.path.lexists(own) else shipped_config(name)
    if found is None:
        raise ConfigError(f"{name}: no such file{similar_file(own)}. {_advice(name)}")
    return found


def _advice(name: str | Path) -> str:
    """What can be given instead of a name that is none."""
    shipped = shipped_configs()
    close = closest(_bare(name), shipped)
    hint = f"Did you mean {close}? " if close else ""
    return f"{hint}Allowed: a YAML file, or one of these, which come with the package: {', '.join(shipped)}"


def _bare(name: str | Path) -> str:
    return Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml")
