"""A study on the screen: a table that is redrawn; in a log lines, of ended trials and of how far the others are.

What is said when a study has ended: how to use the best trial, or that there is none to speak of.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raytune_m2f.cli.console import err, is_quiet
from raytune_m2f.progress import INTERVAL_S, Heartbeat, duration, read_progress
from raytune_m2f.study.status import Progress, Silent, StudyStatus, TrialStatus, relative
from raytune_m2f.training.objective import Objective

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
MARKS = {"config": "*", "published": "+", "earlier": "^", "pbt": ">"}
FOOTNOTES = {
    "config": "* the configuration's own values",
    "published": "+ the published loss weights",
    "earlier": "^ a best point of the earlier study",
    "pbt": "> went on from the checkpoint of a better trial",
}
ENDED = ("complete", "stopped", "failed")
REDRAW_S = 2.0  # of a table in a terminal
AROUND = 15  # lines of a table that are not trials: title, header, caption


class StudyProgress:
    """Shows a study on a console, which should be stderr: `with StudyProgress() as progress: run_study(...)`.

    Args:
        interval: seconds after which it is told anew how far the running trials are, reports or not.
    """

    def __init__(self, console: Console | None = None, *, interval: float | None = None) -> None:
        self._console = console or Console(markup=False, emoji=False, stderr=True)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._told: set[int] = set()
        self._status: StudyStatus | None = None
        self._updated = 0.0
        self._lock = threading.Lock()
        self._heart = Heartbeat(self.beat, interval=interval or (INTERVAL_S if self._live is None else REDRAW_S))

    def __enter__(self) -> StudyProgress:
        if self._live is not None:
            self._live.start()
        self._heart.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heart.__exit__()
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def update(self, status: StudyStatus) -> None:
        with self._lock:
            self._status, self._updated = status, time.monotonic()
            if self._live is not None:
                self._redraw(self._live, status)
                return
            ended = [trial for trial in status.trials if trial.state in ENDED]
            for trial in ended:
                if trial.number not in self._told:
                    self._told.add(trial.number)
                    self._say(_line(trial, status))

    def beat(self, seconds: float) -> None:
        """Tell how far it is, so many seconds after the start."""
        with self._lock:
            status = self._status
            starting = f"still starting (Ray, then the first trials), for {duration(seconds)}"
            if self._live is not None:
                if status is None:
                    self._live.update(Text(starting), refresh=True)
                else:
                    self._redraw(self._live, status)
                return
            for line in [starting] if status is None else how_far(status, seconds, self._left()):
                self._say(line)

    def _left(self) -> float | None:
        """Seconds left now: those of the last change, less what has gone by since."""
        left = None if self._status is None else self._status.seconds_left
        return None if left is None else max(0.0, left - (time.monotonic() - self._updated))

    def _redraw(self, live: Live, status: StudyStatus) -> None:
        now = replace(status, seconds_left=self._left())
        live.update(status_table(now, rows_that_fit(self._console)), refresh=True)

    def _say(self, line: str) -> None:
        self._console.print(Text(line), soft_wrap=True)


def shown_progress() -> AbstractContextManager[Progress]:
    """Who follows a study of the command line: stderr, or with -q nobody."""
    return nullcontext(Silent()) if is_quiet() else StudyProgress(err)


def how_far(status: StudyStatus, seconds: float, left: float | None) -> list[str]:
    """A line on the study, and one on each running trial, which knows more than its last report."""
    ended = sum(trial.state in ENDED for trial in status.trials)
    limit = status.budget["trials"]
    best = status.best_trial
    parts = [
        f"study {relative(status.directory)}: {ended}{f' of {limit:.0f}' if limit else ''} trials ended",
        *([] if best is None else [f"best {status.metric} {_number(best.best)} (trial {best.number})"]),
        f"running for {duration(seconds)}",
        *([] if left is None else [f"about {duration(left)} left"]),
    ]
    return [", ".join(parts), *(_trial_now(trial, status) for trial in status.trials if trial.state == "running")]


def _trial_now(trial: TrialStatus, status: StudyStatus) -> str:
    told = read_progress(Path(trial.directory))
    loss = "" if told is None or "loss" not in told.facts else f", loss {told.facts['loss']:.4g}"
    score = "" if trial.last is None else f", last {status.metric} {_number(trial.last)}"
    return f"  trial {trial.number} at {_reached(trial)}/{trial.max_iter}{loss}{score}"


def _reached(trial: TrialStatus) -> int:
    """The iterations done: those of the last report, and of a running trial those since, where its files are here."""
    told = read_progress(Path(trial.directory)) if trial.state == "running" else None
    return trial.iteration if told is None else max(trial.iteration, told.done)


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
    part = f": {len(trials)} of {len(status.trials)} trials" if len(trials) < len(status.trials) else ""
    table = Table(
        title=Text(f"study {relative(status.directory)}{part}"),
        caption=Text(_caption(status)),
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
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
        f"{_reached(trial)}/{trial.max_iter}",
        _number(trial.last),
        _number(trial.best),
        *([_number(value) for value in trial.others] or [""] * others),
        *(Text(_value(trial.values.get(key))) for key in keys),
        duration(trial.seconds),
    ]


def _caption(status: StudyStatus) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    if not counts:
        return f"no trials yet{_next(status)}"
    limit = status.budget["trials"]
    of = f" of {limit:.0f} trials" if limit else " trials"
    best = status.best_trial
    leader = "" if best is None else f"; best: trial {best.number} with {status.metric} {_number(best.best)}"
    origins = dict.fromkeys(trial.origin for trial in status.trials if trial.origin in FOOTNOTES)
    notes = "".join(f"\n{FOOTNOTES[origin]}" for origin in origins if origin)
    leaks = f"\nleaks freed: {status.leaks_freed}" if status.leaks_freed else ""
    return f"{status.usage['trials']:.0f}{of} started: {counts}{leader}{leaks}{_noise(status)}{notes}{_next(status)}"


def _next(status: StudyStatus) -> str:
    """How long it still runs, or the command that goes on with it."""
    if status.seconds_left is not None:
        return f"\nabout {duration(status.seconds_left)} left"
    if status.resumable:
        return f"\nnobody runs it; to go on with it: raytune-m2f resume {quote(relative(status.directory))}"
    return ""


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


SHOWN_AS_ZERO = 0.005


def closing_words(status: StudyStatus) -> str | None:
    """None if no trial has weights and a score."""
    best = status.best_trial
    if best is None or best.best is None:
        return None
    return _nothing_found(status, best) or _no_difference(status, best) or _export(status)


def _export(status: StudyStatus) -> str:
    return f"export the best trial: raytune-m2f export {quote(relative(status.directory))} --output DIR"


def _nothing_found(status: StudyStatus, best: TrialStatus) -> str | None:
    rewards = all(weight > 0 for weight, _ in Objective.parse(status.metric).terms)
    if not rewards or best.best is None or best.best >= SHOWN_AS_ZERO:
        return None
    return (
        f"no trial has found anything: the best {status.metric} is {best.best:.2f}, so the search has learned nothing "
        f"and there is no best trial. {_ADVICE} in {relative(best.directory)}/metrics.jsonl."
    )


def _no_difference(status: StudyStatus, best: TrialStatus) -> str | None:
    scores = [trial.best for trial in status.trials if trial.best is not None and trial.state != "failed"]
    if len(scores) < 2 or min(scores) < max(scores):
        return None
    return (
        f"all {len(scores)} trials have the same {status.metric}, {best.best:.2f}: none is better than another, none "
        f"could be stopped early, and the search has learned nothing. {_ADVICE} in "
        f"{relative(best.directory)}/metrics.jsonl."
    )


_ADVICE = (
    "Train longer (a new study with a larger SOLVER.MAX_ITER), or search other ranges (SOLVER.BASE_LR first); whether "
    "the losses fall is"
)
