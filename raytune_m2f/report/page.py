"""A report as one file of HTML: everything is inside, and its policy (CSP) forbids the browser any other address."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_m2f.progress import duration
from raytune_m2f.report.content import Content, interval
from raytune_m2f.report.figures import Figure, Table, confusion
from raytune_m2f.report.pictures import Gallery, Heads
from raytune_m2f.storage.files import sealed
from raytune_m2f.study.lines import FOOTNOTES, nothing_found, score_text, value_text
from raytune_m2f.study.plan import now
from raytune_m2f.study.status import TrialStatus, relative

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_CLASSES = 30
"""A larger confusion table is left out: it cannot be read, and `evaluate --output` writes it."""
JOINT = {"joint": "joint AP", "lower": "lower bound", "upper": "upper bound"}


@dataclass(frozen=True)
class Leader:
    """A row of the leaderboard, as text; `sort` are the same as numbers, for who sorts by a column."""

    trial: TrialStatus
    cells: list[str]
    sort: list[float | str]
    best: bool
    own: bool
    note: str


def render(content: Content, figures: dict[str, list[Figure]], gallery: Gallery, heads: Heads, *, reload: int) -> bytes:
    """The page, sealed: the next report may replace it.

    Args:
        reload: after so many seconds the browser reads the file again; 0: never.
    """
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    parts = {name: (files(__package__) / name).read_text("utf-8") for name in ("page.html.j2", "page.css", "page.js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": score_text, "duration": duration, "time": _time_text, "breakable": _breakable}
    plotly, script = get_plotlyjs(), parts["page.js"]
    html = environment.from_string(parts["page.html.j2"]).render(
        content=content,
        status=content.status,
        settings=content.plan.settings,
        name=_name(content.status.directory),
        where=relative(content.status.directory),
        created=content.plan.created,
        now=now(),
        verdict=verdict(content),
        tiles=tiles(content),
        columns=columns(content),
        leaders=leaders(content),
        footnotes=[FOOTNOTES[origin] for origin in _origins(content)],
        figures=figures,
        gallery=gallery,
        heads=heads,
        head_tables=head_tables(heads),
        confusions=confusions(heads),
        reload=reload,
        css=Markup(parts["page.css"]),
        plotly=Markup(plotly),
        script=Markup(script),
        policy=f"script-src {_digest(plotly)} {_digest(script)}",
    )
    return sealed(f"{html.rstrip()}\n<!-- ".encode(), b" -->\n")


def _name(directory: str) -> str:
    """What a study is called: its folder; of one that is called `study` also the folder around it."""
    *_, around, name = ("", *Path(directory.rstrip("/")).parts)
    return f"{around}/{name}" if name == "study" and around.strip("/") else name


def _time_text(when: str) -> str:
    """A time of the record, which is in UTC, to the minute."""
    return f"{when[:10]} {when[11:16]} UTC"


def _breakable(text: str) -> Markup:
    """A dotted key that a narrow column may break at its dots and underscores."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"([._])(?=[A-Za-z])", r"\1<wbr>", str(escape(text))))


def _digest(script: str) -> str:
    """A script as a policy names it: no other one runs."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def verdict(content: Content) -> list[str]:
    """What came of the study, in a few sentences."""
    status, best, own = content.status, next(iter(content.ranked), None), content.own
    if best is None or best.best is None:
        return ["No trial has a score yet."]
    if status.found_nothing:
        return [nothing_found(status) or "No trial has found anything."]
    said = [f"Trial {best.number} is the best: {status.metric} {_with_interval(best, status.metric)}."]
    if own is not None and own.best is not None and own.number != best.number:
        less = best.best - own.best
        own_score = _with_interval(own, status.metric)
        said.append(f"The configuration's own values, trial {own.number}, reach {own_score}, {less:.2f} less.")
    elif own is not None and own.number == best.number:
        said.append("These are the configuration's own values: the search has found nothing better.")
    if close := status.within_noise():
        numbers = ", ".join(str(trial.number) for trial in close[:5])
        said.append(
            f"Its lead over trial {numbers} is within the noise of the evaluation: the command confirm decides."
        )
    if best.number != status.best:
        said.append("Its weights are gone, so it cannot be exported.")
    return said


def _with_interval(trial: TrialStatus, metric: str) -> str:
    found = interval(trial, metric)
    return score_text(trial.best) + ("" if found is None else f" ({found[0]:.2f} to {found[1]:.2f})")


def tiles(content: Content) -> list[tuple[str, str, str]]:
    """The figures at the top: (name, figure, explanation)."""
    status, saved = content.status, content.saved
    best = next(iter(content.ranked), None)
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    found = [] if best is None else [(f"best {status.metric}", score_text(best.best), f"trial {best.number}")]
    found.append(("trials", f"{status.usage['trials']:.0f}", counts))
    hours = f"{status.usage['gpu_hours']:.1f} GPU-hours" if status.usage["gpu_hours"] else "on CPUs"
    found.append(("time", duration(status.usage["seconds"]), hours))
    found.append(("iterations", f"{status.usage['iterations']:,.0f}", "trained in all"))
    if saved is not None:
        gpu = f", {saved.gpu_hours:.1f} GPU-hours" if saved.gpu_hours else ""
        found.append(("early stopping saved", f"{saved.share:.0%}", f"{saved.iterations:,} iterations{gpu}"))
    return found


def columns(content: Content) -> list[str]:
    """The head of the leaderboard."""
    status = content.status
    scores = [status.metric, "interval (95 %)", *status.metrics[1:]]
    return ["trial", "state", *scores, "best at", "iterations", *content.keys, "time"]


def leaders(content: Content) -> list[Leader]:
    """Every trial, the best first, those without a score last."""
    order = {trial.number: place for place, trial in enumerate(content.ranked)}
    trials = sorted(content.status.trials, key=lambda trial: (order.get(trial.number, len(order)), trial.number))
    return [_leader(content, trial, best=order.get(trial.number) == 0) for trial in trials]


def _leader(content: Content, trial: TrialStatus, *, best: bool) -> Leader:
    others = [*trial.others, *[None] * len(content.status.metrics)][: len(content.status.metrics) - 1]
    found = interval(trial, content.status.metric)
    mark = FOOTNOTES.get(trial.origin or "", " ")[0].strip()
    cells: list[tuple[str, Any]] = [
        (f"{mark}{trial.number}", trial.number),
        (trial.state, trial.state),
        (score_text(trial.best), trial.best),
        ("" if found is None else f"{found[0]:.2f} to {found[1]:.2f}", None if found is None else found[0]),
        *((score_text(other), other) for other in others),
        ("" if trial.best_iteration is None else str(trial.best_iteration), trial.best_iteration),
        (f"{trial.iteration}/{trial.max_iter}", trial.iteration),
        *((exact(trial.values.get(key)), trial.values.get(key)) for key in content.keys),
        (duration(trial.seconds) if trial.seconds else "", trial.seconds),
    ]
    sort = ["" if value is None else value if isinstance(value, int | float) else str(value) for _, value in cells]
    note = "; ".join(filter(None, [trial.cause, "" if trial.feasible else "breaks a constraint", *trial.symptoms]))
    own = content.own is not None and trial.number == content.own.number
    return Leader(trial, [text for text, _ in cells], sort, best, own, note)


def exact(value: Any) -> str:
    """A searched value, to three digits."""
    return f"{value:.3g}" if isinstance(value, float) else value_text(value)


def _origins(content: Content) -> list[str]:
    found = dict.fromkeys(trial.origin for trial in content.status.trials)
    return [origin for origin in found if origin in FOOTNOTES]


def head_tables(heads: Heads) -> list[tuple[str, Table]]:
    """Joint AP with its bounds, and every head on the instances that were found; each number with its interval."""
    scores = heads.scores
    if scores is None:
        return []

    def cell(metric: str) -> str:
        value = scores.get(metric)
        if value is None or value != value:
            return "no ground truth"
        margin = scores.intervals[metric].margin if metric in scores.intervals else float("nan")
        return f"{value:.1f}" if margin != margin else f"{value:.1f} ± {margin:.1f}"

    task = scores.evaluation.measures.task
    rows = [(name, cell(f"{task}/{name}")) for name in ("AP", "AP50", "AP75") if f"{task}/{name}" in scores]
    found = [("Average precision, the categories alone", Table(("metric", "% ± (95 %)"), rows))]
    names = [*scores.heads, *(["all"] if f"{task}/AP_all" in scores else [])]
    if scores.heads:
        joint = [
            (
                "all heads together" if name == "all" else name,
                *(cell(_joint_key(task, kind, name)) for kind in JOINT),
            )
            for name in names
        ]
        found.append(("Joint AP: category and subcategory both right", Table(("head", *JOINT.values()), joint)))
        measures = ("accuracy", "majority", "balanced_accuracy", "coverage", "found_and_right")
        said = ("accuracy", "always the commonest class", "balanced accuracy", "found", "found and right")
        each = [(head, *(cell(f"{head}/{measure}") for measure in measures)) for head in scores.heads]
        found.append(("Each head, on the instances that were found", Table(("head", *said), each)))
    return found


def _joint_key(task: str, kind: str, name: str) -> str:
    if name == "all":
        return f"{task}/AP_all" if kind == "joint" else f"{task}/AP_all_{kind}"
    return f"{task}/AP_{kind}_{name}"


def confusions(heads: Heads) -> list[Figure]:
    """The confusion table of each head that has found something."""
    if heads.scores is None:
        return []
    return [
        confusion(f"confusion-{number}", name, head.classes, head.confusion.tolist())
        for number, (name, head) in enumerate(heads.scores.heads.items())
        if head.matched and len(head.classes) <= MOST_CLASSES
    ]
