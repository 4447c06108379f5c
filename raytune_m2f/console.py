"""What all commands share: one clear error instead of a traceback, logs on stderr, devices and durations."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from raytune_m2f.errors import InputError, RaytuneM2FError

out = Console()
"""Results."""
err = Console(stderr=True)
"""Logs, progress and errors."""

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn our errors, and paths that cannot be used, into a message and an exit code; Ctrl-C into 130."""
    try:
        yield
    except RaytuneM2FError as error:
        _show(str(error))
        raise SystemExit(error.exit_code) from None
    except (FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        _show(f"{error.filename}: {error.strerror}. Give a path that can be used.")
        raise SystemExit(InputError.exit_code) from None
    except KeyboardInterrupt:
        err.print("[bold]interrupted[/]; what was finished is kept")
        raise SystemExit(130) from None


def _show(message: str) -> None:
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    logging.getLogger("raytune_m2f").debug("where it arose:", exc_info=True)


def parse_duration(text: str | None) -> float | None:
    """Seconds of "90s", "45m", "2h", "1d" or "1h30m".

    Raises:
        typer.BadParameter: anything else.
    """
    if text is None:
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise typer.BadParameter(f"got {text!r}, allowed: a duration such as 90s, 45m, 2h, 1d or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def require_pairs(overrides: list[str]) -> list[str]:
    """Refuse an argument that is no KEY=VALUE before it is taken for one.

    Raises:
        InputError: naming it.
    """
    for override in overrides:
        if "=" not in override:
            raise InputError(f"unexpected argument {override!r}: configuration values are given as KEY=VALUE")
    return overrides
