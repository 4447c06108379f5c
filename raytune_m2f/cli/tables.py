"""Tables of a study and of a confirmation, and the table that is redrawn in a terminal while a study runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raytune_m2f.progress import INTERVAL_S, duration
from raytune_m2f.study.lines import (
    FOOTNOTES,
    StudyLines,
    iterations_done,
    score_text,
    starting_line,
    status_caption,
    value_text,
)
from raytune_m2f.study.status import StudyStatus, TrialStatus, relative

if TYPE_CHECKING:
    from raytune_m2f.study.confirm import Confirmation

STYLES = {
    "waiting": "dim",
    "running": "cyan",
    "unfinished": "yellow",
    "paused": "blue",
    "complete": "green",
    "stopped": "dim",
    "failed": "red",
}
REDRAW_S = 2.0  # of a table in a terminal
AROUND = 15  # lines of a table that are not trials: title, header, caption


class StudyTable(StudyLines):
    """A `Progress` of a study that redraws its table in a terminal."""

    def __init__(self, console: Console, *, interval: float = REDRAW_S) -> None:
        super().__init__(_printer(console), interval=interval)
        self._console = console
        self._live = Live(console=console, auto_refresh=False)

    def __enter__(self) -> StudyTable:
        self._live.start()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._live.stop()

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def _show(self) -> None:
        assert self._status is not None
        now = replace(self._status, seconds_left=self._left())
        self._live.update(status_table(now, rows_that_fit(self._console)), refresh=True)

    def _show_time(self, seconds: float) -> None:
        if self._status is None:
            self._live.update(Text(starting_line(seconds)), refresh=True)
        else:
            self._show()


def study_progress(console: Console, *, interval: float | None = None) -> StudyLines:
    """The `Progress` of a study on a console, which should be stderr: a table in a terminal, lines elsewhere."""
    if console.is_terminal:
        return StudyTable(console, interval=interval or REDRAW_S)
    return StudyLines(_printer(console), interval=interval or INTERVAL_S)


def _printer(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(Text(line), soft_wrap=True)


def rows_that_fit(console: Console) -> int:
    """Trials that a redrawn table can show; what is below the screen's end would be cut."""
    return max(console.height - AROUND, 5)


def status_table(status: StudyStatus, rows: int | None = None, *, folded: bool = True) -> Table:
    """One row a trial; the best is marked.

    Args:
        rows: at most so many trials: the best, those that run, then those with the best scores.
        folded: the names of keys over several lines, to suit a terminal; else whole.
    """
    trials = status.trials if rows is None else _foremost(status, rows)
    keys = list(dict.fromkeys(key for trial in status.trials for key in trial.values))
    table = _empty_table(status, len(trials))
    for name, width in (("trial", 5), ("state", 8), ("iter", 7), ("last", 5), ("best", 5)):
        justify: JustifyMethod = "left" if name == "state" else "right"
        table.add_column(name, justify=justify, min_width=width, no_wrap=True)
    for name in status.metrics[1:]:
        table.add_column(Text(name), justify="right", overflow="fold", min_width=6)
    for name in _short(keys):  # a line for each word, and long words folded, keep the columns narrow
        shown = name.replace("_", "_\n") if folded else name
        table.add_column(Text(shown), justify="right", overflow="fold", min_width=6)
    table.add_column("time", justify="right", min_width=4, no_wrap=True)
    for trial in trials:
        table.add_row(*_row(trial, keys, len(status.metrics) - 1), style="bold" if trial.number == status.best else "")
    return table


def _empty_table(status: StudyStatus, shown: int) -> Table:
    part = f": {shown} of {len(status.trials)} trials" if shown < len(status.trials) else ""
    return Table(
        title=Text(f"study {relative(status.directory)}{part}"),
        caption=Text(status_caption(status)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )


def _foremost(status: StudyStatus, rows: int) -> list[TrialStatus]:
    def merit(trial: TrialStatus) -> tuple[bool, bool, float]:
        return trial.number == status.best, trial.state == "running", -math.inf if trial.best is None else trial.best

    chosen = {trial.number for trial in sorted(status.trials, key=merit, reverse=True)[:rows]}
    return [trial for trial in status.trials if trial.number in chosen]


def _row(trial: TrialStatus, keys: list[str], others: int) -> list[Text | str]:
    return [
        f"{FOOTNOTES.get(trial.origin or '', '')[:1]}{trial.number}",
        Text(trial.state, style=STYLES[trial.state]),
        f"{iterations_done(trial)}/{trial.max_iter}",
        score_text(trial.last),
        score_text(trial.best),
        *([score_text(value) for value in trial.others] or [""] * others),
        *(Text(value_text(trial.values.get(key))) for key in keys),
        duration(trial.seconds),
    ]


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


def confirmation_table(found: Confirmation) -> Table:
    """One row a leader: its score in the study, those under new seeds, their mean with its 95 % interval."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "in the study", "under new seeds", "mean"):
        table.add_column(name, justify="right")
    for leader in found.leaders:
        scores = "  ".join(f"{score:.2f}" for score in leader.scores.values())
        table.add_row(str(leader.trial), f"{leader.first:.2f}", scores, str(leader.mean))
    return table
