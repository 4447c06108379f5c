"""The command that examines a configuration before GPU time is spent on it."""

from __future__ import annotations

import logging
import time as clock
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

import raytune_m2f as rm
from raytune_m2f.cli.console import clear_errors, err, is_quiet, out
from raytune_m2f.cli.options import MOST, ConfigFile, Overrides, given, require_duration, require_finite
from raytune_m2f.progress import duration, heartbeat

if TYPE_CHECKING:
    from raytune_m2f.doctor.examine import Diagnosis
    from raytune_m2f.doctor.finding import Check, Finding, Level

log = logging.getLogger(__name__)

STYLES: dict[Level, str] = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}
WIDTH = 9  # of the longest level, and a blank
INDENT = 2


def doctor(
    context: typer.Context,
    config: ConfigFile,
    overrides: Overrides = None,
    space: Annotated[
        str | None, typer.Option(help="Search space of the study to come: a name or a file; its ranges are checked.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, max=MOST, help="Trials that the study is to have.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Wall time that it is to have, e.g. 2h.", callback=require_duration)
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Optimizer steps that it is to have, over all trials.")
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(min=0.01, callback=require_finite, help="GPU-hours that it is to have.")
    ] = None,
    workers_per_trial: Annotated[int, typer.Option(min=1, max=MOST, help="Ray Train workers of a trial.")] = 1,
    device: Annotated[
        str | None, typer.Option(help="Where the network is examined: cpu, cuda; by default a GPU if there is one.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1, max=MOST, callback=require_finite, help="How long the checks that train may take; by default 120."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only data, evaluator and configuration, in seconds, as `tune` does.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Examine data, configuration and network before GPU time is spent on them: ok, warning or problem, and what to do.

    Exit code 1 if there is a problem. Nothing is written. What is asked, and why: docs/doctor.md.

    Example: raytune-m2f doctor --config my.yaml
    """
    with clear_errors():
        begun = clock.monotonic()
        printer = _Printer(silent=json)
        with _watching(silent=json or is_quiet()) as watch:
            diagnosis = rm.diagnose(**given(context, "json"), begin=watch, found=printer.show)
        if json:
            typer.echo(diagnosis.to_json())
        else:
            _conclude(diagnosis, clock.monotonic() - begun)
        if diagnosis.problems:
            raise typer.Exit(1)


class _Printer:
    """Prints each finding as it is made, under the heading of its group."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent
        self._group = ""

    def show(self, finding: Finding) -> None:
        """A line for what was seen; below it what that means and what to do."""
        if self._silent:
            return
        group, _, name = finding.check.partition("/")
        if group != self._group:
            self._group = group
            out.print(Text(group, style="bold"), soft_wrap=True)
        style = STYLES[finding.level]
        first = Text.assemble((f"{finding.level:{WIDTH}}", style), (name, "bold"), ": ", finding.figure)
        _print(first, INDENT)
        for line in (finding.meaning, finding.remedy and f"-> {finding.remedy}"):
            if line:
                _print(Text(line), INDENT + WIDTH)


def _print(text: Text, indent: int) -> None:
    """Wrapped in a terminal, below its own beginning; a line elsewhere."""
    for line in text.split("\n"):
        folded = line.wrap(out, out.width - indent) if out.is_terminal else [line]
        for part in folded:
            out.print(Text.assemble(" " * indent, part), soft_wrap=True)


def _conclude(diagnosis: Diagnosis, seconds: float) -> None:
    """How many of each kind."""
    skipped = sum(finding.level == "skipped" for finding in diagnosis.findings)
    looked = len({finding.check for finding in diagnosis.findings if finding.level != "skipped"})
    parts = [_count(len(diagnosis.problems), "problem"), _count(len(diagnosis.warnings), "warning")]
    said = f"{parts[0]}, {parts[1]}; {_count(looked, 'check')} in {duration(seconds)}"
    said += f", {skipped} skipped" if skipped else ""
    style = STYLES["problem" if diagnosis.problems else "warning" if diagnosis.warnings else "ok"]
    out.print(Text(said, style=style), soft_wrap=True)


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


@contextmanager
def _watching(*, silent: bool) -> Iterator[Callable[[Check], None] | None]:
    """On stderr what is looked at now: all the time in a terminal, elsewhere where it takes long."""
    if silent:
        yield None
    elif err.is_terminal:
        with err.status("") as status:
            yield lambda check: status.update(Text(f"{check.name}: {check.asks}"))
    else:
        now: list[Check] = []
        with heartbeat(lambda seconds: _say_still(now, seconds)):
            yield now.append


def _say_still(begun: list[Check], seconds: float) -> None:
    """What is looked at, after so many seconds of all."""
    if begun:
        log.info("still at %s (%s), after %s", begun[-1].name, begun[-1].asks, duration(seconds))
