"""Collect what a job takes along in one folder: configuration, search space, the user's Python, named data files.

Data and weights stay on the cluster, so the paths to them are as its nodes see them; a path that starts with a
$VARIABLE is sent as it is, for the nodes to fill in. Files that may hold secrets are never sent.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.config import Config
from raytune_m2f.config.build import build
from raytune_m2f.config.load import file_layers, find_config, override_layers
from raytune_m2f.config.paths import is_path
from raytune_m2f.config.yaml_file import merge
from raytune_m2f.errors import ConfigError, InputError, first_of, join_problems
from raytune_m2f.study.space import load_space, packaged_spaces

CONFIG, SPACE = "config.yaml", "space.yaml"
MAX_BYTES = 100 * 2**20
"""Limit for one file."""
SHOWN = 100
"""Files in a list."""
_SECRET = re.compile(
    r"\.env(\..*)?|.*\.env|id_(rsa|dsa|ecdsa|ed25519).*|.*\.(pem|key|p12|pfx|jks|keystore|kdbx|ppk|ovpn|gpg|token)"
    r"|\.?credentials?.*|[._]?netrc|\.pgpass|\.git-credentials|\.npmrc|\.pypirc|\.htpasswd|.*[-_.]?token(s)?(\.\w+)?"
    r"|\.?secrets?(\..*)?|client_secret.*|kubeconfig|.*service[-_]?account.*\.json|passw(d|ords?)(\..*)?|shadow",
    flags=re.IGNORECASE,
)
_SECRET_FOLDERS = {".ssh", ".aws", ".gnupg", ".kube", ".docker", ".azure", "gcloud", ".git"}
_IGNORED = {"__pycache__", "node_modules", "site-packages"}
_PRIVATE_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY")


def pack_config(path: Path, overrides: Sequence[str], folder: Path) -> Config:
    """Write the configuration as one file, `folder`/config.yaml, with its base files and the overrides merged.

    Returns:
        The configuration, to check a search space with. Its paths are the cluster's, except for the files of
        DATASETS.IMPORT, which the caller packs.

    Raises:
        ConfigError: it is wrong, or has a path that only this machine has.
    """
    layers = [*file_layers(find_config(path), ()), *override_layers(overrides)]
    plain = [replace(layer, values=_change_paths(layer.values, _without_variables)) for layer in layers]
    checked = build(Config, plain)
    merged: dict[Any, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.values)
    _refuse_local_paths(path, merged)
    if checked.DATASETS.IMPORT:  # by name: the job's folder is another one when the study is resumed
        names = [Path(name).stem if name.endswith(".py") else name for name in checked.DATASETS.IMPORT]
        merged["DATASETS"] = {**merged["DATASETS"], "IMPORT": names}
    (folder / CONFIG).write_text(yaml.safe_dump(merged, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return checked


def pack_space(name: str, folder: Path, config: Config | None = None) -> str:
    """Write a search space of the user's as `folder`/space.yaml; one that ships with the package is there already.

    Args:
        name: a file, or the name of a space of the package.
        config: to check the space against; None checks it by itself.

    Returns:
        The job's name for it.

    Raises:
        SearchSpaceError: there is no such space, or it is wrong.
    """
    space = load_space(name, config)
    if name in packaged_spaces():
        return name
    (folder / SPACE).write_text(yaml.safe_dump(space.to_dict(), sort_keys=False), encoding="utf-8")
    return SPACE


def pack_module(path: Path, folder: Path) -> int:
    """Copy a module, or the Python files of a package, into the folder from which the job imports.

    Returns:
        The number of other files of the package, which are left out.

    Raises:
        InputError: it is no module, another one has its name, or a file in it may hold secrets.
    """
    if not path.exists():
        raise InputError(f"--module {path}: no such file or folder; give a .py file or the folder of a package")
    name = path.name if path.is_dir() else path.stem
    if not name.isidentifier() or (path.suffix != ".py" if path.is_file() else not (path / "__init__.py").is_file()):
        raise InputError(
            f"--module {path}: allowed is a .py file, or the folder of a package, which has an __init__.py, by its "
            "name. Data that the job reads beside it: --file"
        )
    if (folder / path.name).exists():
        raise InputError(f"{path}: a job takes all its modules in one folder, where {path.name} is taken; rename one")
    if path.is_file():
        _copy(path, path.parent, folder / path.name)
        return 0
    files = list(_files(path))
    for file in files:
        if file.suffix == ".py":
            _copy(file, path, folder / path.name / file.relative_to(path))
    return sum(file.suffix != ".py" for file in files)


def pack_file(path: Path, modules: Sequence[Path], folder: Path, max_bytes: int = MAX_BYTES) -> None:
    """Copy a data file that the user named: into its package if that is one of `modules`, else beside them.

    Raises:
        InputError: it is no file, its name is taken, it is too large, or it may hold secrets.
    """
    if not path.is_file():
        raise InputError(f"--file {path}: no such file")
    if path.stat().st_size > max_bytes:
        raise InputError(
            f"--file {path}: has {path.stat().st_size / 2**20:.0f} MiB, allowed are {max_bytes // 2**20}; put it on "
            "storage that all nodes see"
        )
    with path.open("rb") as file:
        if _PRIVATE_KEY.search(file.read(4096)):
            raise InputError(f"--file {path}: holds a private key, which is not sent")
    package = next((module for module in modules if module.is_dir() and path.is_relative_to(module)), None)
    target = folder / (path.name if package is None else path.relative_to(package.parent))
    if target.exists():
        raise InputError(f"--file {path}: {target.relative_to(folder)} is taken in the job's folder; rename one")
    _copy(path, path.parent, target)


def what_is_sent(folder: Path) -> list[str]:
    """The files of the job's folder with their sizes, one a line, after a line with number and total size."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in files]
    lines = [f"{size / 1000:10.1f} kB  {path.relative_to(folder)}" for path, size in zip(files, sizes, strict=True)]
    return [f"sent along: {len(files)} files, {sum(sizes) / 1000:.1f} kB", *first_of(lines, SHOWN)]


def _change_paths(values: Mapping[Any, Any], change: Callable[[str, str], str], prefix: str = "") -> dict[Any, Any]:
    """A copy with every path replaced by `change(dotted key, path)`."""
    changed: dict[Any, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        if isinstance(value, Mapping):
            changed[key] = _change_paths(value, change, f"{dotted}.")
        else:
            names_file = isinstance(value, str) and is_path(dotted, value)
            changed[key] = change(dotted, value) if names_file else value
    return changed


def _without_variables(key: str, path: str) -> str:
    """A path without variables, which only the nodes know, so that the rest of the configuration can be checked."""
    return path.replace("$", "/")


def _refuse_local_paths(source: Path, values: Mapping[Any, Any]) -> None:
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
        raise ConfigError(join_problems(problems))


def _files(package: Path) -> Iterator[Path]:
    """The files of a package, without caches, hidden files and virtual environments."""
    for root, folders, names in os.walk(package):
        here = Path(root)
        for name in folders:
            if (here / name).is_symlink():
                raise InputError(f"--module {package}: {here / name} is a link to a folder; a job takes files alone")
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _IGNORED and not (here / name / "pyvenv.cfg").exists()
        )
        yield from (here / name for name in sorted(names) if not name.startswith("."))


def _copy(file: Path, within: Path, target: Path) -> None:
    """Copy a file; refuse one that may hold secrets, or a link that leads out of `within`."""
    real = file.resolve()
    if not real.is_file():
        raise InputError(f"{file}: is no file")
    if not real.is_relative_to(within.resolve()):
        raise InputError(f"{file}: is a link to {real}, out of what was named, and is not sent. Name it itself")
    for path in (file, real):
        parts = _SECRET_FOLDERS.intersection(path.absolute().parts)
        if _SECRET.fullmatch(path.name) or parts:
            why = f"lies in {parts.pop()}" if parts else "is called as files that keep secrets are"
            raise InputError(f"{file}: {why}, and is not sent. If it keeps none, rename it")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(real, target)
