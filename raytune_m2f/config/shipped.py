"""The configurations that come with the package: found by name, after an installation too."""

from __future__ import annotations

import difflib
import os
from importlib.resources import files
from pathlib import Path

from raytune_m2f.errors import ConfigError


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
        raise ConfigError(f"{name}: no such file{_similar_file(own)}. {advice(name)}")
    return found


def advice(name: str | Path) -> str:
    """What can be given instead of a name that is none."""
    shipped = shipped_configs()
    close = difflib.get_close_matches(_bare(name), shipped, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed: a YAML file, or one of these, which come with the package: {', '.join(shipped)}"


def _bare(name: str | Path) -> str:
    return Path(name).as_posix().removeprefix("configs/").removesuffix(".yaml")


def _similar_file(path: Path) -> str:
    there = {file.name: file for file in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
    close = difflib.get_close_matches(path.name, there, n=1)
    return f"; did you mean {there[close[0]]}?" if close else ""
