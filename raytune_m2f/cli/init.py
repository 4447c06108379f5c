"""The command that makes a project of an annotation tool's export, and what it prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

import raytune_m2f as rm
from raytune_m2f.cli.console import clear_errors, out, print_table
from raytune_m2f.cli.options import LARGEST_SEED, given, require_finite
from raytune_m2f.errors import first_of

if TYPE_CHECKING:
    from raytune_m2f.project.fields import Candidate
    from raytune_m2f.project.init import Project

SEVERAL = ("--annotations", "--images")
"""Options that take all words up to the next option, as `--annotations train.json val.json`."""
SHOWN, FEWER = 6, 3
"""Values of a field; fewer where it is no head and has more than that."""
LONGEST = 40
"""Characters of a name in a table."""
MOST_ROWS = 60
"""Of the table of parts; a thousand classes are in the annotation files."""


class SeveralWords(TyperCommand):
    """A command whose options `SEVERAL` take several words; click's own take one, and may be repeated."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(repeated(args)))


def repeated(words: Sequence[str]) -> Iterator[str]:
    """The words with an option of `SEVERAL` before each of its values."""
    option = ""
    fresh = False  # whether the next word is the option's own
    for word in words:
        if word.startswith("-"):
            name, separator, _ = word.partition("=")
            option, fresh = (name if name in SEVERAL else ""), not separator
        elif option and not fresh:
            yield option
        else:
            fresh = False
        yield word


def init(
    context: typer.Context,
    annotations: Annotated[
        list[Path],
        typer.Option(metavar="FILE...", help="Files or folders of the export; of two files the second scores."),
    ],
    output: Annotated[Path, typer.Option(help="Folder to make, for annotations, config.yaml and space.yaml.")],
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR...", help="Folders of its images; by default those of the annotations."),
    ] = None,
    subcategories: Annotated[
        list[str] | None,
        typer.Option(
            "--subcategory",
            metavar="[NAME=]PLACE",
            help="A head, and the field that has its labels; several times for several heads, `none` for no head. By "
            "default the fields that are labels beyond doubt.",
        ),
    ] = None,
    val: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=0.999,
            callback=require_finite,
            help="Share of the images that score; by default the parts that the export has, else 0.2.",
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD|REGEX",
            help="Keep images together, as those of one video: a field of the images, or a regular expression on their "
            "names whose group 1 is the group.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the split.")] = 0,
    device: Annotated[
        Literal["cpu", "gpu"] | None, typer.Option(help="What will train; by default a GPU if this machine has one.")
    ] = None,
) -> None:
    """Make annotations in our form, a configuration and a search space of an annotation tool's export.

    The export and its images stay as they are. What is read, and what each value follows from: docs/init.md.

    Example: raytune-m2f init --annotations export.json --images photos --output project
    """
    with clear_errors():
        print_project(rm.init(**given(context)))


def print_project(project: Project) -> None:
    """What was read and decided, and what to type next."""
    export = project.export
    files = ", ".join(first_of([file.name for file in export.files], 3))
    _say(f"read {files}: {export.dialect}, {len(export.pictures)} images, {len(list(export.items))} objects")
    for line in project.left_out:
        _say(f"  {line}")
    _print_fields(project)
    _print_parts(project)
    for line in project.remarks:
        _say(f"worth a look: {line}")
    _say(f"written: {project.config}, space.yaml, {', '.join(f'data/{part}.json' for part in project.parts)}; next")
    for command in project.commands():
        _say(f"  {command}")


def _print_fields(project: Project) -> None:
    if not project.candidates:
        _say("the objects have no field beside category and mask: no subcategory")
        return
    table = Table(title="fields of the objects", title_justify="left", box=box.SIMPLE_HEAD)
    for name, justify in (("field", "left"), ("known", "right"), ("values", "left"), ("subcategory", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for one in project.candidates:
        table.add_row(*map(Text, (_cut(one.place), str(one.known), _values(one), _decision(one))))
    print_table(table)
    if not project.heads:
        _say("no subcategory is trained; --subcategory PLACE takes a field")
    else:
        _say("other heads: --subcategory [NAME=]PLACE for each, or --subcategory none")


def _values(candidate: Candidate) -> str:
    listed = [f"{_cut(name)} {count}" for name, count in candidate.counts.items()]
    shown = ", ".join(first_of(listed, SHOWN if candidate.head or len(listed) <= SHOWN else FEWER))
    words = ", ".join(f"{_cut(word)!r} {count}" for word, count in candidate.unknown_words.items())
    return "; ".join(filter(None, (shown, words and f"not known: {words}")))


def _decision(candidate: Candidate) -> str:
    if candidate.head is None:
        return f"no: {candidate.reason}"
    return f"{candidate.head.name} ({len(candidate.head.classes)} classes)"


def _cut(name: str) -> str:
    """A name that leaves room for the others, on one line."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _print_parts(project: Project) -> None:
    table = Table(title="parts", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    table.add_column("", overflow="fold")
    for part in project.parts:
        table.add_column(part, justify="right")
    rows = list(project.counts())
    for what, name, counts in rows[:MOST_ROWS]:
        table.add_row(Text(what), Text(_cut(name)), *map(str, counts))
    print_table(table)
    if len(rows) > MOST_ROWS:
        _say(f"... and {len(rows) - MOST_ROWS} more classes")
    for line in project.split.how:
        _say(f"split: {line}")


def _say(text: str) -> None:
    out.print(text, soft_wrap=True, markup=False, highlight=False)
