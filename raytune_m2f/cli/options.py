"""Options and arguments that several commands have, and how their words are checked."""

from __future__ import annotations

import logging
import math
import platform
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from raytune_m2f.cli.console import set_verbosity
from raytune_m2f.errors import InputError
from raytune_m2f.progress import parse_duration

MOST = 10**9
"""The upper bound of every count: a larger number is a typing error."""
LARGEST_SEED = 2**31 - 1


def require_finite(number: float | None) -> float | None:
    """The number; raises BadParameter at nan and infinity, which click's bounds let through."""
    if number is not None and not math.isfinite(number):
        raise typer.BadParameter(f"got {number}, allowed: a number")
    return number


def require_duration(text: str | None) -> str | None:
    """A duration as it was typed; raises BadParameter if it is none."""
    if text is not None:
        try:
            parse_duration(text)
        except InputError as error:
            raise typer.BadParameter(str(error)) from None
    return text


def require_pairs(words: list[str] | None) -> list[str]:
    """The KEY=VALUE words; raises BadParameter at an argument that is none."""
    for word in words or []:
        if "=" not in word:
            raise typer.BadParameter(f"unexpected argument {word!r}: configuration values are given as KEY=VALUE")
    return words or []


ConfigFile = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="FILE|NAME",
        help="Configuration in detectron2's keys (YAML), or the name of one that comes with the package: small_data.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Configuration values that win over the file.", callback=require_pairs
    ),
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. 'auto'; by default this machine alone.")]
Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Dashboard of the Ray cluster, e.g. http://head:8265; by default what this variable says.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the Python files that the stored configuration names (DATASETS.IMPORT). Read them first."
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(
        min=0, callback=require_finite, help="GPUs of a worker, a fraction shares one; by default 1 if there is any."
    ),
]


class Group(TyperGroup):
    """The commands; -q and -v of the application are accepted behind a command's name too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        everywhere = [parameter for parameter in self.params if parameter.name in ("quiet", "verbose")]
        for command in self.commands.values():
            command.params.extend(everywhere)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        set_verbosity()  # a second command line in one process starts anew
        _refuse_empty_words(args)
        return super().parse_args(ctx, args)


def _refuse_empty_words(words: Sequence[str]) -> None:
    """Raises BadParameter at an empty word, mostly an unset variable: `--output "$RUN"` would mean `.`."""
    for before, word in zip(["", *words], words, strict=False):
        if not word or re.fullmatch(r"--[\w-]+=", word):
            name = word.rstrip("=") or before or "the first argument"
            raise typer.BadParameter(f"{name} got nothing (an environment variable that is not set?)")


def _quiet(wanted: bool) -> None:
    if wanted:
        set_verbosity(logging.ERROR)


def _verbose(wanted: bool) -> None:
    if wanted:
        set_verbosity(logging.DEBUG)


def _version(wanted: bool) -> None:
    """Print the versions that a bug report needs."""
    if wanted:
        for name, found in versions().items():
            typer.echo(f"{name} {found}")
        raise typer.Exit


def application(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print errors and results only.", callback=_quiet, expose_value=False)
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Print more: steps, where an error arose.", callback=_verbose, expose_value=False
        ),
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the versions and exit.", callback=_version, is_eager=True, expose_value=False
        ),
    ] = False,
) -> None:
    """The options before a command's name."""


def versions() -> dict[str, str]:
    """The versions of this package, Python and the main libraries, none of which is imported."""
    found = {"raytune_m2f": _version_of("raytune-m2f"), "python": platform.python_version()}
    return found | {name: _version_of(name) for name in ("torch", "torchvision", "ray", "optuna")}


def _version_of(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
