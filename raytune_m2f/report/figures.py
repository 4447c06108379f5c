"""The plots of a report, most of them Optuna's own, each with its numbers as a table for who does not see it.

Optuna's plots of keys are of every trial of the study that has a score, at its best report: a stopped trial stands
where it was stopped, and is drawn as a ring.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from raytune_m2f.report.content import Content
from raytune_m2f.study.lines import score_text, value_text
from raytune_m2f.study.status import TrialStatus

if TYPE_CHECKING:
    import plotly.graph_objects as go

FEWEST = 3
"""Trials with a score, below which there is no plot of keys."""
CONTOURED = 3
"""The most important keys, each two of which have a contour."""
NAMED = 3
"""Curves that have a colour and a name of their own, beside the configuration's."""
MOST_SLICES = 24
MOST_STEPS = 12
"""Columns of the table of the learning curves."""
PALETTE = ("#3b82f6", "#e8590c", "#2f9e44", "#9c36b5")
"""Seen on light and on dark paper; the last is the configuration's own trial."""
PALE = "#8a94a6"
LEGEND = {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"}


@dataclass(frozen=True)
class Table:
    """Numbers as text; `numeric` columns stand at the right."""

    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Figure:
    """A plot.

    Attributes:
        name: unique in the page, an HTML id.
        title: above it.
        words: what it shows, for the caption and for who does not see it.
        plot: plotly's JSON: "data" and "layout".
        table: its numbers.
        height: in pixels.
    """

    name: str
    title: str
    words: str
    plot: dict[str, Any]
    table: Table
    height: int = 360


def scored_study(content: Content) -> optuna.Study:
    """The trials with a score, each complete with its score, as a study in memory that Optuna's plots take."""
    scored = {trial.number: trial for trial in content.status.trials if trial.best is not None}
    study = optuna.create_study(direction="maximize")
    for trial in content.trials:
        status = scored.get(trial.number)
        if status is not None and status.state != "failed":
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE,
                    value=status.best,
                    params=trial.params,
                    distributions=trial.distributions,
                    user_attrs={"number": trial.number},
                )
            )
    return study


def learning_curves(content: Content) -> Figure | None:
    """The metric over the iterations; the best trials and the configuration's own in colour, the others pale."""
    import plotly.graph_objects as go

    metric = content.status.metric
    curves = {trial.number: sorted(trial.intermediate_values.items()) for trial in content.trials}
    drawn = [trial for trial in content.status.trials if curves.get(trial.number)]
    if not drawn:
        return None
    own, best = content.own, content.ranked[:NAMED]
    named = [trial for trial in best if own is None or trial.number != own.number]
    colours = {trial.number: colour for trial, colour in zip(named, PALETTE, strict=False)}
    if own is not None:
        colours[own.number] = PALETTE[-1]
    figure = go.Figure()
    for trial in sorted(drawn, key=lambda trial: trial.number in colours):
        steps, scores = zip(*curves[trial.number], strict=True)
        figure.add_scatter(
            x=steps,
            y=scores,
            mode="lines+markers",
            name=_curve_name(trial, own),
            line={"color": colours.get(trial.number, PALE), "width": 3 if trial.number in colours else 1},
            marker={"size": 6 if trial.number in colours else 4},
            opacity=1.0 if trial.number in colours else 0.55,
            showlegend=trial.number in colours,
            hovertemplate=f"trial {trial.number} ({trial.state})<br>iteration %{{x}}: %{{y:.2f}}<extra></extra>",
        )
    figure.update_layout(xaxis_title="iteration", yaxis_title=metric, legend=LEGEND)
    reported = sorted({step for trial in drawn for step, _ in curves[trial.number]})
    few = len(reported) <= MOST_STEPS
    shown = reported if few else [reported[i * (len(reported) - 1) // (MOST_STEPS - 1)] for i in range(MOST_STEPS)]
    rows = [
        (str(trial.number), trial.state, *(score_text(dict(curves[trial.number]).get(step)) for step in shown))
        for trial in drawn
    ]
    beside = "" if own is None else " and the configuration's own values"
    words = (
        f"{metric} at each report of {len(drawn)} trials. In colour: the best {len(named)}{beside}; pale: the others. "
        "A curve that ends early was stopped, waits, or still runs."
    )
    return Figure(
        "curves",
        "Learning curves",
        words,
        plot_of(figure),
        Table(("trial", "state", *(f"iteration {step}" for step in shown)), rows),
        height=420,
    )


def _curve_name(trial: TrialStatus, own: TrialStatus | None) -> str:
    is_own = own is not None and trial.number == own.number
    return f"trial {trial.number}{' (own values)' if is_own else ''}"


def history(content: Content, study: optuna.Study) -> Figure | None:
    """How the best score rose, trial by trial."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < FEWEST:
        return None
    figure = optuna.visualization.plot_optimization_history(study, target_name=content.status.metric)
    numbers = [trial.user_attrs["number"] for trial in trials]
    for trace in figure.data:
        trace.x = [numbers[place] for place in trace.x]
    figure.update_traces(selector={"mode": "markers"}, marker={"color": PALE, "size": 8})
    figure.update_traces(selector={"mode": "lines"}, line={"color": PALETTE[0], "width": 3, "shape": "hv"})
    figure.update_layout(legend=LEGEND)
    best, rows = -math.inf, []
    for number, trial in zip(numbers, trials, strict=True):
        best = max(best, float(trial.value or 0.0))
        rows.append((str(number), score_text(trial.value), score_text(best)))
    words = f"The best {content.status.metric} of each trial, and the best so far, in the order of the trials."
    head = ("trial", content.status.metric, "best so far")
    return Figure("history", "The search", words, plot_of(figure), Table(head, rows))


def importance(content: Content, study: optuna.Study) -> Figure | None:
    """Which keys matter, by Optuna's default (PED-ANOVA)."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < FEWEST or len({trial.value for trial in trials}) < 2:
        return None
    found = {key: share for key, share in optuna.importance.get_param_importances(study).items() if share == share}
    if not found:
        return None
    figure = optuna.visualization.plot_param_importances(study, target_name=content.status.metric)
    figure.update_traces(marker_color=PALETTE[0])
    most = max(found.values())
    figure.update_layout(yaxis={"automargin": True, "title": None}, xaxis={"title": "share", "range": [0, 1.15 * most]})
    short = short_keys(found)
    for trace in figure.data:
        trace.y = tuple(short[key] for key in trace.y)
    words = (
        f"Which keys tell the best of {len(trials)} scored trials from the others (Optuna, PED-ANOVA; the shares "
        "sum to 1). It ranks what was seen; the table of what was learned, above, also knows how sure that is."
    )
    rows = [(key, f"{share:.2f}") for key, share in found.items()]
    height = 140 + 30 * len(found)
    return Figure("importance", "Which keys matter", words, plot_of(figure), Table(("key", "share"), rows), height)


def slices(content: Content, study: optuna.Study) -> Iterator[Figure]:
    """The score over each key."""
    trials = study.get_trials(deepcopy=False)
    metric = content.status.metric
    if len(trials) < FEWEST:
        return
    drawn = _by_importance(content, trials)
    short = short_keys(drawn)
    for number, key in enumerate(drawn[:MOST_SLICES]):
        figure = optuna.visualization.plot_slice(study, params=[key], target_name=metric)
        _mark_stopped(figure, content, [trial for trial in trials if key in trial.params])
        figure.update_layout(title=None, xaxis_title=short[key], yaxis_title=metric, coloraxis_showscale=False)
        pairs = sorted(
            (
                (trial.params[key], trial.value or 0.0, trial.user_attrs["number"])
                for trial in trials
                if key in trial.params
            ),
            key=lambda pair: (str(type(pair[0])), pair[0]),
        )
        rows = [(value_text(value), score_text(score), str(trial)) for value, score, trial in pairs]
        words = f"{metric} over {key}; best: {value_text(max(pairs, key=lambda pair: pair[1])[0])}."
        yield Figure(f"slice-{number}", key, words, plot_of(figure), Table((key, metric, "trial"), rows), height=280)


def _mark_stopped(figure: go.Figure, content: Content, trials: Sequence[FrozenTrial]) -> None:
    """Rings for trials that were stopped; without a bar of colours, which would be the order of the trials."""
    whole = {trial.number for trial in content.status.trials if trial.iteration >= trial.max_iter}
    best = content.ranked[0].number if content.ranked else None
    numbers = [trial.user_attrs["number"] for trial in trials]
    figure.update_traces(
        marker={
            "color": [PALETTE[1] if number == best else PALETTE[0] for number in numbers],
            "symbol": ["circle" if number in whole else "circle-open" for number in numbers],
            "size": [11 if number == best else 8 for number in numbers],
            "showscale": False,
            "line": {"width": 1.5, "color": [PALETTE[1] if number == best else PALETTE[0] for number in numbers]},
        },
        text=[f"trial {number}" for number in numbers],
        hovertemplate="%{text}<br>%{x}: %{y:.2f}<extra></extra>",
        showlegend=False,
    )


def contours(content: Content, study: optuna.Study) -> Iterator[Figure]:
    """The score over each two of the most important keys."""
    trials = study.get_trials(deepcopy=False)
    if len(trials) < 2 * FEWEST:
        return
    metric = content.status.metric
    drawn = _by_importance(content, trials)
    short = short_keys(drawn)
    varied = [key for key in drawn if len({repr(trial.params.get(key)) for trial in trials}) > 1]
    for number, (one, other) in enumerate(itertools.combinations(varied[:CONTOURED], 2)):
        figure = optuna.visualization.plot_contour(study, params=[one, other], target_name=metric)
        figure.update_traces(selector={"type": "contour"}, colorscale="Viridis", reversescale=False, opacity=0.85)
        figure.update_traces(selector={"type": "contour"}, colorbar={"title": {"text": metric}, "thickness": 12})
        figure.update_traces(
            selector={"type": "scatter"}, marker={"color": "#fff", "line": {"color": "#222", "width": 1}}
        )
        figure.update_layout(title=None)
        for axis in (figure.layout.xaxis, figure.layout.yaxis):
            axis.title = short[axis.title.text]
        both = [trial for trial in trials if one in trial.params and other in trial.params]
        rows = [
            (value_text(t.params[one]), value_text(t.params[other]), score_text(t.value), str(t.user_attrs["number"]))
            for t in sorted(both, key=lambda trial: -(trial.value or 0.0))
        ]
        words = (
            f"{metric} over {one} and {other}: a dot is a trial, the colours between them are interpolated, not "
            "measured."
        )
        head = (one, other, metric, "trial")
        title = f"{short[one]} and {short[other]}"
        yield Figure(f"contour-{number}", title, words, plot_of(figure), Table(head, rows), height=380)


def _by_importance(content: Content, trials: Sequence[FrozenTrial]) -> list[str]:
    """The drawn keys, the most important first where that is known."""
    drawn = list(dict.fromkeys(key for trial in trials for key in trial.params))
    known = [key.key for key in content.insight.keys]
    return sorted(drawn, key=lambda key: known.index(key) if key in known else len(known))


def confusion(name: str, head: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """What was said of each class of a head, on the instances that were found; rows are the truth."""
    import plotly.graph_objects as go

    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    figure = go.Figure(
        go.Heatmap(
            z=shares,
            x=list(classes),
            y=list(classes),
            text=[[str(count) for count in row] for row in counts],
            texttemplate="%{text}",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
            hovertemplate="%{y} said to be %{x}: %{text}<extra></extra>",
        )
    )
    figure.update_layout(
        xaxis={"title": "predicted", "type": "category"},
        yaxis={"title": "truth", "type": "category", "autorange": "reversed", "automargin": True},
    )
    right, whole = sum(row[i] for i, row in enumerate(counts)), sum(map(sum, counts))
    words = f"{head}: {right} of {whole} instances that were found are of the right class; rows are the truth."
    rows = [(truth, *map(str, row)) for truth, row in zip(classes, counts, strict=True)]
    table = Table(("truth / predicted", *classes), rows)
    return Figure(name, f"{head}: truth and prediction", words, plot_of(figure), table, 200 + 34 * len(classes))


def plot_of(figure: go.Figure) -> dict[str, Any]:
    """A figure as plotly's JSON, without colours of paper and ink, which the page gives it by its own."""
    figure.update_layout(
        template="none",
        title=None,
        margin={"l": 56, "r": 16, "t": 24, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    plot: dict[str, Any] = json.loads(figure.to_json())
    return {"data": plot["data"], "layout": plot["layout"]}


def short_keys(keys: Iterable[str]) -> dict[str, str]:
    """What to write on an axis for each dotted key: its last part, or the whole where two keys end alike."""
    last = {key: key.rpartition(".")[2] for key in keys}
    count = Counter(last.values())
    return {key: name if count[name] == 1 else key for key, name in last.items()}


def draw_all(content: Content) -> dict[str, list[Figure]]:
    """All plots of the record by the name of their section; an empty list where there is too little to plot."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # a study in memory is nobody's news
    try:
        study = scored_study(content)
        one: dict[str, Callable[[], Figure | None]] = {
            "curves": lambda: learning_curves(content),
            "history": lambda: history(content, study),
            "importance": lambda: importance(content, study),
        }
        drawn = {name: [figure for figure in [draw()] if figure is not None] for name, draw in one.items()}
        return {**drawn, "slices": list(slices(content, study)), "contours": list(contours(content, study))}
    finally:
        optuna.logging.set_verbosity(verbosity)
