"""Progress of long work: count, rate and time left; one mechanism for all commands, without torch or Ray.

The work calls a `Progress` after every step, which moves a bar in a terminal (`Bar`), writes a plain line every half
minute to a log (`Lines`), or a small file for another process (`ProgressFile`). `heartbeat` and `still` report that
work goes on whose progress is unknown: a download, the start of Ray.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from raytune_m2f.errors import InputError
from raytune_m2f.storage.files import write_atomically

T = TypeVar("T")
INTERVAL_S = 30.0
"""Between two lines of a log."""
FIRST_S = 5.0
"""Until the first line, so that the rate is known soon."""
PROGRESS = "progress"
"""Attribute that marks a log record as a line of `Lines`: log files keep it, a terminal shows a bar instead."""
FILE = ".raytune_m2f.progress.json"
Clock = Callable[[], float]


class Progress(Protocol):
    """Called after each step with the steps done, their total, and further facts by name, such as the loss."""

    def __call__(self, done: int, total: int, /, **facts: Any) -> None: ...


def nobody(done: int, total: int, /, **facts: Any) -> None:
    """A `Progress` that does nothing."""


class Pace:
    """The rate from the first call to the last step, so that it does not fall in a pause, such as an evaluation."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._start: tuple[float, int] | None = None
        self._last: tuple[float, int] = 0.0, 0

    def at(self, done: int, total: int) -> tuple[float | None, float | None]:
        """Rate [1/s] and seconds left at that rate; None while there is none."""
        now = self._clock()
        if self._start is None or done < self._last[1]:
            self._start = self._last = now, done
        if done > self._last[1]:
            self._last = now, done
        seconds, steps = self._last[0] - self._start[0], self._last[1] - self._start[1]
        if seconds <= 0 or steps <= 0:
            return None, None
        return steps / seconds, max(0.0, (total - done) * seconds / steps - (now - self._last[0]))


def described(facts: Mapping[str, Any], rate: float | None, left: float | None, unit: str) -> str:
    """The text after the count: "3.1 it/s, loss 24.1, segm/AP 12.3, 1:20 left"."""
    speed = [] if rate is None else [f"{rate:.1f} {unit}/s" if rate >= 1 else f"{1 / rate:.1f} s/{unit}"]
    known = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in facts.items()]
    return ", ".join([*speed, *known, *([] if left is None else [f"{duration(left)} left"])])


def duration(seconds: float) -> str:
    """1:05 or 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str | float | None) -> float | None:
    """Seconds of "90s", "45m", "2h", "1d" or "1h30m"; a number is one of seconds already, None is no limit.

    Raises:
        InputError: anything else.
    """
    if text is None:
        return None
    if not isinstance(text, str):
        seconds = float(text)
    elif re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        seconds = sum(float(part[:-1]) * _UNITS_S[part[-1]] for part in re.findall(r"[\d.]+[smhd]", text))
    else:
        seconds = math.nan
    if not 0 < seconds <= 100 * 365 * _UNITS_S["d"]:
        shown = text if len(str(text)) <= 40 else f"{str(text)[:37]}..."
        raise InputError(
            f"got {shown!r}, allowed: a duration above 0 and up to 100 years, such as 90s, 45m, 2h, 1d or 1h30m"
        )
    return seconds


class Lines:
    """A `Progress` that calls `say` with plain lines: the first soon, then one per interval, and one at the end.

    Args:
        what: the work, the beginning of each line.
        unit: of a step, in the singular.
    """

    def __init__(
        self, what: str, say: Callable[[str], None], unit: str = "it", *, clock: Clock = time.monotonic
    ) -> None:
        self._what, self._say, self._unit, self._clock = what, say, unit, clock
        self._pace, self._spoke, self._due = Pace(clock), clock(), clock() + FIRST_S
        self._ended, self._count = False, ""

    def __call__(self, done: int, total: int, /, **facts: Any) -> None:
        rate, left = self._pace.at(done, total)
        self._count = f" {done}/{total}"
        ends = done >= total and not self._ended
        if not ends and self._clock() < self._due:
            return
        self._spoke = self._clock()
        self._due = self._spoke + INTERVAL_S
        self._ended = done >= total
        more = described(facts, rate, None if self._ended else left, self._unit)
        self._say(f"{self._what}{self._count}{', ' if more else ''}{more}")

    def beat(self, seconds: float) -> None:
        """Write that the work goes on if there was no line for an interval: one image, one step may take minutes."""
        if not self._ended and self._clock() >= self._spoke + INTERVAL_S:
            self._spoke = self._clock()
            self._say(f"{self._what}{self._count}, for {duration(seconds)}")


def logged(what: str, log: logging.Logger) -> Lines:
    """A `Progress` that writes its lines to a log, marked with `PROGRESS`."""
    return Lines(what, lambda line: log.info("%s", line, extra={PROGRESS: True}))


def several(*listeners: Progress) -> Progress:
    """A `Progress` that calls several others."""

    def tell(done: int, total: int, /, **facts: Any) -> None:
        for listener in listeners:
            listener(done, total, **facts)

    return tell


class Bar:
    """A `Progress` that moves a bar of rich."""

    def __init__(self, shown: RichProgress, what: str, unit: str) -> None:
        self._shown, self._unit, self._pace = shown, unit, Pace()
        self._task = shown.add_task(what, total=None, count="", more="")

    def __call__(self, done: int, total: int, /, **facts: Any) -> None:
        rate, left = self._pace.at(done, total)
        more = described(facts, rate, left, self._unit)
        self._shown.update(self._task, completed=done, total=total, count=f"{done}/{total}", more=more)


@contextmanager
def line_progress(what: str, say: Callable[[str], None], unit: str = "it") -> Iterator[Lines]:
    """A `Lines` that also speaks while nothing is done."""
    lines = Lines(what, say, unit)
    with heartbeat(lines.beat, interval=FIRST_S):
        yield lines


def print_to_stderr(line: str) -> None:
    """Say a line where a script, a notebook or a log shows it."""
    print(line, file=sys.stderr, flush=True)


def as_context(progress: T | AbstractContextManager[T]) -> AbstractContextManager[T]:
    """A listener to enter for as long as the work takes: itself where it has a beginning and an end."""
    return progress if isinstance(progress, AbstractContextManager) else nullcontext(progress)


@contextmanager
def following(console: Console, what: str, unit: str = "it") -> Iterator[Progress]:
    """Show on a console, which should be stderr, how far the work within is."""
    if not console.is_terminal:
        with line_progress(what, lambda line: console.print(Text(line), soft_wrap=True), unit) as lines:
            yield lines
        return
    name, count, more = (
        TextColumn(f"{{task.{field}}}", markup=False) for field in ("description", "fields[count]", "fields[more]")
    )
    with RichProgress(name, BarColumn(), count, more, console=console, transient=True) as shown:
        yield Bar(shown, what, unit)


class Told(NamedTuple):
    """The content of a `ProgressFile`, and when it was written [s since 1970]."""

    done: int
    total: int
    facts: dict[str, Any]
    at: float


class ProgressFile:
    """A `Progress` that writes a file into a folder, at most once per `interval` seconds, for other processes.

    It is only shown to people, so an error such as a full disk is ignored.
    """

    def __init__(self, folder: Path, *, interval: float = 2.0, clock: Clock = time.monotonic) -> None:
        self._folder, self._interval, self._clock, self._due = folder, interval, clock, clock()

    def __call__(self, done: int, total: int, /, **facts: Any) -> None:
        if self._clock() < self._due and done < total:
            return
        self._due = self._clock() + self._interval
        content = json.dumps({"done": done, "total": total, "facts": facts, "at": time.time()})
        with suppress(OSError):
            write_atomically(self._folder / FILE, content, durable=False)


def read_progress(folder: Path) -> Told | None:
    """The last content of a `ProgressFile`; None if there is none, or it cannot be read."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Told(int(content["done"]), int(content["total"]), dict(content["facts"]), float(content["at"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextmanager
def heartbeat(beat: Callable[[float], None], *, interval: float = INTERVAL_S) -> Iterator[None]:
    """A thread calls `beat` every `interval` seconds with the seconds since the start, and never after the end."""
    start, stop = time.monotonic(), threading.Event()

    def run() -> None:
        while not stop.wait(interval):
            beat(time.monotonic() - start)

    thread = threading.Thread(target=run, daemon=True, name="progress")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextmanager
def still(log: logging.Logger, what: str, *, interval: float = INTERVAL_S) -> Iterator[None]:
    """Log regularly that `what` is still going on, for work whose progress is unknown."""
    with heartbeat(lambda seconds: log.info("still %s, for %s", what, duration(seconds)), interval=interval):
        yield
