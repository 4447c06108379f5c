"""What all commands share: one clear error instead of a traceback, logs and progress on stderr, tables, durations."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from raytune_m2f.errors import InputError, RaytuneM2FError
from raytune_m2f.progress_line import PROGRESS, Progress, following, nobody

out = Console()
"""Results."""
err = Console(stderr=True)
"""Logs, progress and errors."""

LOG = "raytune_m2f"
PLAIN_WIDTH = 100_000  # of a table in a log: no line is ever folded
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
    logging.getLogger(LOG).debug("where it arose:", exc_info=True)


def set_verbosity(level: int = logging.INFO) -> None:
    """What a command says beside its results: logging.ERROR errors alone (-q), logging.DEBUG everything (-v)."""
    logging.getLogger(LOG).setLevel(level)


def is_quiet() -> bool:
    return logging.getLogger(LOG).level >= logging.ERROR


def log_to_stderr() -> None:
    """Show the package's log on stderr: with colours in a terminal, as plain lines of any length elsewhere."""
    log = logging.getLogger(LOG)
    if log.level == logging.NOTSET:
        set_verbosity()
    handler: logging.Handler = _PlainHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    if err.is_terminal:
        handler = RichHandler(console=err, show_path=False, show_level=False, log_time_format="%H:%M:%S")
    handler.addFilter(lambda record: not hasattr(record, PROGRESS))  # `show_progress` shows it
    log.handlers = [handler]


class _PlainHandler(logging.Handler):
    """A line a record on the console of the errors, neither wrapped nor padded."""

    def emit(self, record: logging.LogRecord) -> None:
        err.print(self.format(record), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def show_progress(what: str, unit: str = "it") -> Iterator[Progress]:
    """Show on stderr how far the work within is; not with -q."""
    if is_quiet():
        yield nobody
        return
    with following(err, what, unit) as progress:
        yield progress


def print_table(table: Table) -> None:
    """A result: a table as wide as the terminal, or as wide as it needs to be, without blanks behind its lines."""
    if out.is_terminal:
        out.print(table)
        return
    table.box = None
    file = io.StringIO()
    Console(file=file, width=PLAIN_WIDTH).print(table)
    out.print(*(line.rstrip() for line in file.getvalue().splitlines()), sep="\n", markup=False, highlight=False,
              soft_wrap=True)  # fmt: skip


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
