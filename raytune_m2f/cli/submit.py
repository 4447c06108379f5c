"""The command line of a job: checked here as far as possible without the cluster, then rewritten for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from raytune_m2f.cluster.jobs import JobCommand, require_shared
from raytune_m2f.cluster.pack import CONFIG, pack_config, pack_file, pack_module, pack_space
from raytune_m2f.errors import InputError
from raytune_m2f.storage.address import holds_credentials, without_credentials
from raytune_m2f.study.record.storage import check_address

HOMES = {"tune": "study", "resume": "study", "extend": "study", "confirm": "study", "train": "output"}
"""The commands that can be a job, and the parameter that names each one's output."""


def read_command(
    context: typer.Context, words: Sequence[str], modules: Sequence[Path], folder: Path, files: Sequence[Path] = ()
) -> JobCommand:
    """Check a command line, and pack what it needs.

    Args:
        context: of the command line that has these commands.
        words: the command and its arguments, as they would be typed on the head.
        modules: that the job's processes can import.
        folder: empty; the job starts in it.
        files: data that the job reads.

    Raises:
        InputError: the command, its configuration or its search space is wrong, or a path would mean this machine.
        click's UsageError: an option or an argument is; typer shows it.
    """
    name, *rest = words or [""]
    group = context.find_root().command
    if name not in HOMES or not isinstance(group, TyperGroup):
        raise InputError(f"got {name!r} after --, allowed: {', '.join(HOMES)}, with its options")
    command = group.commands[name]
    assert isinstance(command, TyperCommand)
    own = command.make_context(name, list(rest), parent=context)  # refuses what the command itself would refuse
    given: dict[str, Any] = command.make_parser(own).parse_args(list(rest))[0]  # the same, as text
    _refuse_credentials(words, given)
    home = _home_on_cluster(command, given, HOMES[name])
    imported = _pack(given, folder)
    again = ["resume", home, *(["--trust"] if imported or given.get("trust") else [])]
    if name == "train":
        again = [*words, *([] if given.get("resume") else ["--resume"])]
    packages = list(
        dict.fromkeys(_absolute(path) for path in [*modules, *(Path(n) for n in imported if n.endswith(".py"))])
    )
    left_out = sum(pack_module(path, folder) for path in packages)
    data = [_absolute(path) for path in files]
    for path in data:
        pack_file(path, packages, folder)
        left_out -= any(path.is_relative_to(package) for package in packages)
    arguments = [name, *_arguments(command, {**given, "address": "auto"})]
    along = [*(("--module", path) for path in packages), *(("--file", path) for path in data)]
    return JobCommand(name, home, arguments, again, [str(word) for pair in along for word in pair], left_out)


def _absolute(path: Path) -> Path:
    """The absolute path of a module or file; raises InputError for `.` and the like, which have no name."""
    if path.name in ("", ".."):
        raise InputError(f"--module {path}: got no name; give the .py file or the package's folder by its name")
    return path.absolute()


def _refuse_credentials(words: Sequence[str], given: dict[str, Any]) -> None:
    """Raises InputError at a word with a password or a token: the cluster's dashboard shows the command line."""
    if given.get("optuna_storage") is not None:
        check_address(str(given["optuna_storage"]))
    for word in words:
        if holds_credentials(word):
            raise InputError(
                f"{without_credentials(word)}: holds credentials, which the cluster's dashboard would show. Give them "
                "in the environment of the cluster's nodes"
            )


def _home_on_cluster(command: TyperCommand, given: dict[str, Any], home: str) -> str:
    if "address" in given:
        raise InputError("--address after --: a job runs on the cluster that it is submitted to; leave it out there")
    for key in (home, "from_study"):
        value = given.get(key)
        for path in value if isinstance(value, list) else [] if value is None else [value]:
            option = next(max(parameter.opts, key=len) for parameter in command.params if parameter.name == key)
            require_shared(option, path)
    return str(given[home]).rstrip("/")


def _pack(given: dict[str, Any], folder: Path) -> tuple[str, ...]:
    """Copy the configuration and the space into the job's folder, and let `given` name the copies.

    Returns:
        the modules and files that its configuration imports.
    """
    config = None
    if "config" in given:
        config = pack_config(Path(given["config"]), list(given.pop("overrides", None) or []), folder)
        given["config"] = CONFIG
    if "space" in given:
        given["space"] = pack_space(given["space"], folder, config)
    return config.DATASETS.IMPORT if config is not None else ()


def _arguments(command: TyperCommand, given: dict[str, Any]) -> list[str]:
    """The command line whose parsed values are `given`."""
    options: list[str] = []
    arguments: list[str] = []
    for parameter in command.params:
        value = given.get(parameter.name or "")
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        if parameter.param_type_name == "argument":
            arguments += values
        elif getattr(parameter, "is_flag", False):
            options += [max(parameter.opts, key=len)] * len(values)
        else:
            options += [f"{max(parameter.opts, key=len)}={one}" for one in values]  # a value may start with a dash
    return [*options, *arguments]
