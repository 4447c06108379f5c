"""What a command shows: results on stdout; the log, the progress and one clear error on stderr."""

from __future__ import annotations

import errno
import io
import logging
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from raytune_m2f.errors import InputError, RaytuneM2FError
from raytune_m2f.progress import PROGRESS, Progress, following, nobody

# Names and paths of the user's are printed as they are: to rich `[x]` would be a style, and `:cat:` a picture.
out = Console(markup=False, emoji=False)
"""Results."""
err = Console(markup=False, emoji=False, stderr=True)
"""Logs, progress and errors."""

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FAILED = {*DISK_FULL, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT}
"""Errors of the machine: exit code 1. Every other error that names a path is an error of the user's path: 2."""


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn our errors, and paths that cannot be used, into a message and an exit code; Ctrl-C into 130."""
    for stream in (sys.stdout, sys.stderr):
        _escape_unencodable(stream)
    try:
        yield
        sys.stdout.flush()  # here, where somebody can still say that it cannot be written
    except RaytuneM2FError as error:
        _print_error(str(error))
        raise SystemExit(error.exit_code) from None
    except OSError as error:
        if not (isinstance(error, BrokenPipeError) and _reader_has_gone()):
            _print_error(_os_error_text(error))
            raise SystemExit(_exit_code(error)) from None
        raise SystemExit(RaytuneM2FError.exit_code) from None
    except ValueError as error:
        if "embedded null" not in str(error):  # Python's words for a path with a NUL
            raise
        _print_error(f"a path holds a NUL character ({error}). Give a path that can be used.")
        raise SystemExit(InputError.exit_code) from None
    except KeyboardInterrupt:
        err.print(Text.assemble(("interrupted", "bold"), "; what was finished is kept"), soft_wrap=True)
        raise SystemExit(130) from None


def _exit_code(error: OSError) -> int:
    """2 for a path that cannot be used, 1 for a failure of the machine."""
    machine = error.errno in FAILED or error.filename is None
    return RaytuneM2FError.exit_code if machine else InputError.exit_code


def _os_error_text(error: OSError) -> str:
    path = error.filename2 or error.filename  # the second is what a file was to be called
    where = f"{_shorten(os.fsdecode(path))}: " if isinstance(path, str | bytes) else ""
    if _exit_code(error) == InputError.exit_code:
        cure = "Give a path that can be used."
    else:
        cure = f"{'Free space there' if error.errno in DISK_FULL else 'Mend that'}; what was finished is kept."
    return f"{where}{error.strerror or error}. {cure}"


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe whose reader has closed it, as `| head` does; what is still written is dropped then."""
    try:
        stdout = sys.stdout.fileno()
    except io.UnsupportedOperation:
        return False
    pipe = select.poll()
    pipe.register(stdout, select.POLLOUT)
    gone = any(event & select.POLLERR for _, event in pipe.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout)
    return gone


def _shorten(path: str) -> str:
    """A path without its middle, where it is too long for a line."""
    return path if len(path) <= 200 else f"{path[:120]}...{path[-60:]} ({len(path)} characters)"


def _escape_unencodable(stream: TextIO) -> None:
    """Escape characters that the terminal's encoding lacks: the name of a file is no reason to fail."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _print_error(message: str) -> None:
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    logging.getLogger("raytune_m2f").debug("traceback:", exc_info=True)


LOG = "raytune_m2f"
PLAIN_WIDTH = 100_000  # of a table in a log: no line is ever folded


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
        err.print(Text(self.format(record)), soft_wrap=True)


@contextmanager
def show_progress(what: str, unit: str = "it") -> Iterator[Progress]:
    """Show on stderr how far the work within is; not with -q."""
    if is_quiet():
        yield nobody
        return
    with following(err, what, unit) as progress:
        yield progress


def print_table(table: Table) -> None:
    """A result: as wide as the terminal; elsewhere as wide as it needs to be, without lines or blanks around it."""
    if out.is_terminal:
        out.print(table)
        return
    title, caption = table.title, table.caption
    table.title = table.caption = table.box = None
    table.pad_edge = False
    file = io.StringIO()
    console = Console(file=file, width=PLAIN_WIDTH, markup=False, emoji=False, highlight=False)
    for part in (title, table, caption):
        if part is not None:
            console.print(part, soft_wrap=part is not table)
    for line in file.getvalue().splitlines():
        out.print(Text(line.rstrip()), soft_wrap=True)
