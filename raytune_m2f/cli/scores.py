"""What `evaluate` prints: metrics with their intervals, each head's confusion table, and comparisons."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from raytune_m2f.cli.console import out, print_table

if TYPE_CHECKING:
    from raytune_m2f.evaluation.subcategories import HeadEvaluation
    from raytune_m2f.rankings import RankingComparison
    from raytune_m2f.scores import Against, Scores

MOST_CLASSES = 20
"""A larger confusion table is in the JSON alone."""


def print_scores(scores: Scores, title: str) -> None:
    """All that is measured, the explanations last."""
    _say(title)
    images = "1 image" if scores.images == 1 else f"{scores.images} images"
    _say(f"{images}; of each image and category {scores.max_detections} detections count (TEST.DETECTIONS_PER_IMAGE)")
    print_table(_metrics(scores))
    for name, head in scores.heads.items():
        if head.matched and len(head.classes) <= MOST_CLASSES:
            print_table(_confusion(name, head))
    for remark in scores.remarks():
        _say(remark)
    if scores.against is not None:
        _print_against(scores, scores.against)
    if scores.rankings is not None:
        _print_rankings(scores.rankings)


def _metrics(scores: Scores) -> Table:
    """A row each: value, half of its interval, and of how many annotations it is."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric", overflow="fold")
    for name in ("%", "+- (95 %)", "annotations"):
        table.add_column(name, justify="right")
    intervals, counts = scores.intervals, scores.counts
    matched = {f"{head}/matched" for head in scores.heads}
    for name, value in scores.items():
        if name in matched:
            continue  # it stands beside the other metrics of its head
        margin = _number(intervals[name].margin)
        table.add_row(Text(name), _number(value) or "no ground truth", margin, str(counts[name]))
    return table


def _confusion(name: str, head: HeadEvaluation) -> Table:
    """Rows ground truth, columns predicted."""
    table = Table(title=Text(f"{name}: truth (rows) and prediction"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("")
    for predicted in head.classes:
        table.add_column(Text(predicted), justify="right", overflow="fold")
    for truth, row in zip(head.classes, head.confusion.tolist(), strict=True):
        table.add_row(Text(truth), *map(str, row))
    return table


def _print_against(scores: Scores, against: Against) -> None:
    table = Table(title=Text(f"against {against.name}, on the same images"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("metric", overflow="fold")
    for name in ("this", "other", "difference", "+- (95 %)", "better in draws"):
        table.add_column(name, justify="right")
    not_better = {f"{head}/{name}" for head in scores.heads for name in ("matched", "majority")}
    for name, (ours, theirs, difference, better) in against.differences.items():
        if not math.isnan(better) and name not in not_better:
            numbers = (_number(each) for each in (ours, theirs, difference.value, difference.margin))
            table.add_row(Text(name), *numbers, f"{100 * better:.1f} %")
    print_table(table)
    task = scores.evaluation.measures.task
    for name in (f"{task}/AP", f"{task}/AP_all"):
        if name in against.differences:
            _say(against.verdict(name))


def _print_rankings(comparison: RankingComparison) -> None:
    """A row for each ranking with each sieve, and what the table says."""
    names, *rows = comparison.table()
    table = Table(title="rankings and sieves, on the same images", title_justify="left", box=box.SIMPLE_HEAD)
    for number, name in enumerate(names):
        table.add_column(Text(name), justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    print_table(table)
    for line in comparison.verdict():
        _say(line)


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False, highlight=False)
