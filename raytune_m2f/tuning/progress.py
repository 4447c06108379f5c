"""A study on the screen: a table that is redrawn at each report, or one line per ended trial where it cannot be."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from rich import box
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raytune_m2f.tuning.status import StudyStatus, TrialStatus, relative

if TYPE_CHECKING:
    from raytune_m2f.tuning.confirm import Confirmation

STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "unfinished": "yellow",
    "paused": "blue",
    "complete": "green",
    "stopped": "dim",
    "failed": "red",
}
MARKS = {"config": "*", "published": "+", "earlier": "^", "pbt": ">"}
FOOTNOTES = {
    "config": "* the configuration's own values",
    "published": "+ the published loss weights",
    "earlier": "^ a best point of the earlier study",
    "pbt": "> went on from the checkpoint of a better trial",
}
ENDED = ("complete", "stopped", "failed")
AROUND = 14  # lines of a table that are not trials: title, header, caption


class Throttle:
    """Lets something happen at most once in `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last = -math.inf

    def allows(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class Progress(Protocol):
    """Who follows a study while it runs."""

    def update(self, status: StudyStatus) -> None:
        """Something has changed."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Silent:
    """Nobody follows."""

    def update(self, status: StudyStatus) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class StudyProgress:
    """Shows a study on a console, which should be stderr: `with StudyProgress() as progress: run_study(...)`."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(markup=False, emoji=False, stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._told: set[int] = set()

    def __enter__(self) -> StudyProgress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def update(self, status: StudyStatus) -> None:
        if self._live is not None:
            self._live.update(status_table(status, rows_that_fit(self._console)), refresh=True)
            return
        ended = [trial for trial in status.trials if trial.state in ENDED]
        for trial in ended:
            if trial.number not in self._told:
                self._told.add(trial.number)
                self._console.print(Text(_line(trial, status)), soft_wrap=True)


def rows_that_fit(console: Console) -> int:
    """Trials that a redrawn table can show; what is below the screen's end would be cut."""
    return max(console.height - AROUND, 5)


def status_table(status: StudyStatus, rows: int | None = None) -> Table:
    """One row a trial; the best is marked.

    Args:
        rows: at most so many trials: the best, those that run, then those with the best scores.
    """
    trials = status.trials if rows is None else _foremost(status, rows)
    keys = list(dict.fromkeys(key for trial in status.trials for key in trial.values))
    part = f": {len(trials)} of {len(status.trials)} trials" if len(trials) < len(status.trials) else ""
    table = Table(
        title=f"study {relative(status.directory)}{part}",
        caption=_caption(status),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for name, width in (("trial", 5), ("state", 8), ("iter", 7), ("last", 5), ("best", 5)):
        justify: JustifyMethod = "left" if name == "state" else "right"
        table.add_column(name, justify=justify, min_width=width, no_wrap=True)
    for name in status.metrics[1:]:
        table.add_column(name, justify="right", overflow="fold", min_width=6)
    for name in _short(keys):  # a line for each word, and long words folded, keep the columns narrow
        table.add_column(name.replace("_", "_\n"), justify="right", overflow="fold", min_width=6)
    table.add_column("time", justify="right", min_width=4, no_wrap=True)
    for trial in trials:
        table.add_row(*_row(trial, keys, len(status.metrics) - 1), style="bold" if trial.number == status.best else "")
    return table


def _foremost(status: StudyStatus, rows: int) -> list[TrialStatus]:
    def merit(trial: TrialStatus) -> tuple[bool, bool, float]:
        return trial.number == status.best, trial.state == "running", -math.inf if trial.best is None else trial.best

    chosen = {trial.number for trial in sorted(status.trials, key=merit, reverse=True)[:rows]}
    return [trial for trial in status.trials if trial.number in chosen]


def confirmation_table(found: Confirmation) -> Table:
    """One row a leader: its score in the study, those under new seeds, their mean with its 95 % interval."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "in the study", "under new seeds", "mean"):
        table.add_column(name, justify="right")
    for leader in found.leaders:
        scores = "  ".join(f"{score:.2f}" for score in leader.scores.values())
        table.add_row(str(leader.trial), f"{leader.first:.2f}", scores, str(leader.mean))
    return table


def verdict(found: Confirmation) -> str:
    """Who has won, and how surely."""
    winner, lead = found.winner, found.lead()
    interval = " (95 % interval)" if winner.mean.half_width is not None else ""
    text = f"winner: trial {winner.trial} with {winner.mean}{interval}"
    if lead is None:
        return text
    certain = "" if found.is_certain() else ", which is not certain: give more --seeds"
    return f"{text}, {lead} above trial {found.leaders[1].trial}{certain}"


def _row(trial: TrialStatus, keys: list[str], others: int) -> list[Text | str]:
    return [
        f"{MARKS.get(trial.origin or '', '')}{trial.number}",
        Text(trial.state, style=STYLES[trial.state]),
        f"{trial.iteration}/{trial.max_iter}",
        _number(trial.last),
        _number(trial.best),
        *([_number(value) for value in trial.others] or [""] * others),
        *(_value(trial.values.get(key)) for key in keys),
        _duration(trial.seconds),
    ]


def _caption(status: StudyStatus) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    if not counts:
        return "no trials yet"
    limit = status.budget["trials"]
    of = f" of {limit:.0f} trials" if limit else " trials"
    best = status.best_trial
    leader = "" if best is None else f"; best: trial {best.number} with {status.metric} {_number(best.best)}"
    origins = dict.fromkeys(trial.origin for trial in status.trials if trial.origin in FOOTNOTES)
    notes = "".join(f"\n{FOOTNOTES[origin]}" for origin in origins if origin)
    leaks = f"\nleaks freed: {status.leaks_freed}" if status.leaks_freed else ""
    return f"{status.usage['trials']:.0f}{of} started: {counts}{leader}{leaks}{_noise(status)}{notes}"


def _noise(status: StudyStatus) -> str:
    """A warning where the best trial is not surely the best."""
    best, close = status.best_trial, status.within_noise()
    if best is None or not close:
        return ""
    numbers = ", ".join(str(trial.number) for trial in sorted(close, key=lambda trial: -(trial.best or 0))[:5])
    return (
        f"\nits lead over trial {numbers}{' ...' if len(close) > 5 else ''} is within the noise of the evaluation "
        f"(standard error {best.standard_error:.2f}): `raytune-m2f confirm {relative(status.directory)}` decides"
    )


def _line(trial: TrialStatus, status: StudyStatus) -> str:
    score = "" if trial.best is None else f", best {status.metric} {_number(trial.best)} at {trial.best_iteration}"
    values = ", ".join(f"{key}={_value(value)}" for key, value in trial.values.items())
    why = f" [{trial.cause}]" if trial.cause else ""
    return f"trial {trial.number} {trial.state} at {trial.iteration}/{trial.max_iter}{score} ({values}){why}"


def _short(keys: list[str]) -> list[str]:
    """The last part of each key, or as many parts as tell it from the others."""
    names = []
    for key in keys:
        parts = key.split(".")
        name = next(
            name
            for count in range(1, len(parts) + 1)
            if sum(other.endswith(name := ".".join(parts[-count:])) for other in keys) == 1 or count == len(parts)
        )
        names.append(name)
    return names


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _value(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else "" if value is None else str(value)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
