"""What a command shows beside its errors: the log and the progress on stderr, tables on stdout, more or less of it."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from raytune_m2f.console import err, out
from raytune_m2f.progress_line import PROGRESS, Progress, following, nobody

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
