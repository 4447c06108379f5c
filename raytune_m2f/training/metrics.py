"""metrics.jsonl: the reports of a run, one JSON object a line."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from raytune_m2f.errors import CheckpointError
from raytune_m2f.files import write_atomically
from raytune_m2f.stored import parse_json
from raytune_m2f.training.context import Report

log = logging.getLogger(__name__)

FILE = "metrics.jsonl"


def read_reports(folder: Path) -> list[Report]:
    """All reports of a run in order; what is no report, as a last line that a kill cut short, is left out and named."""
    path = folder / FILE
    if not path.exists():
        return []
    reports = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            reports.append(_report(line))
        except ValueError as problem:
            log.warning("%s: line %d is no whole report and is left out: %s", path, number, problem)
    return reports


def _report(line: bytes) -> Report:
    """Raises ValueError, saying what is wrong."""
    report = parse_json(line.decode("utf-8"))
    if not isinstance(report, dict):
        raise ValueError(f"got {type(report).__name__}, allowed: an object")
    iteration, images = report.get("iteration"), report.get("images", 0)
    if type(iteration) is not int or iteration < 0 or type(images) is not int:
        raise ValueError(f"got iteration {iteration!r} and images {images!r}, allowed: whole numbers")
    if type(report.get("seconds")) not in (int, float):
        raise ValueError(f"got seconds {report.get('seconds')!r}, allowed: a number")
    if nested := [key for key, value in report.items() if isinstance(value, dict | list)]:
        raise ValueError(f"{nested[0]!r} is neither a number nor a text")
    return report


def append_report(folder: Path, report: Report) -> None:
    """Add a report; one write of one line, so that a reader never sees half of it.

    Raises:
        CheckpointError: it cannot be written; the report is made again when the run goes on.
    """
    try:
        with (folder / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(report) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"cannot write {folder / FILE}: {error}. Free space there; the run can be resumed."
        ) from error


def rewind(folder: Path, report: Report | None) -> None:
    """Make the file end with `report`, the one of the checkpoint that a run goes on from.

    Reports after it are made again; it is added if a kill came between the checkpoint and the file.
    """
    last = -1 if report is None else int(report["iteration"])
    kept = [old for old in read_reports(folder) if int(old["iteration"]) < last]
    lines = [json.dumps(old) for old in (*kept, *([] if report is None else [report]))]
    write_atomically(folder / FILE, "".join(line + "\n" for line in lines))
