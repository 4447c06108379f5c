"""The report of a study, as one file of HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import raytune_m2f as rm
from raytune_m2f.cli.console import clear_errors, out, show_progress
from raytune_m2f.cli.options import MOST, Trust, given
from raytune_m2f.cli.study import StudyDir


def report(
    context: typer.Context,
    study: StudyDir,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write; by default report.html in the study directory."),
    ] = None,
    pictures: Annotated[
        int | None,
        typer.Option(min=0, max=16, help="Test images to show with their predictions; by default 6."),
    ] = None,
    test_images: Annotated[
        int | None,
        typer.Option(
            min=0, max=MOST, help="Test images to evaluate the best trial on, for its heads; by default 200, 0: none."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device to predict on; by default the GPU, if the study does not run now.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again and again while the study runs.")] = False,
    trust: Trust = False,
) -> None:
    """Write a study as one HTML file that needs no network: leaderboard, curves, keys, pictures, heads, failures.

    Example: raytune-m2f report studies/fruits -o report.html
    """
    with clear_errors():
        file = rm.Study(study).report(**given(context, "study"), progress=show_progress("predicting", "step"))
        out.print(f"open {file} in a browser", soft_wrap=True, highlight=False)
