"""A study in plain lines: how it stands, what has changed, how far its running trials are, what its end means."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import Any

from raytune_m2f.progress import INTERVAL_S, duration, heartbeat, print_to_stderr, read_progress
from raytune_m2f.study.settings import Resources
from raytune_m2f.study.status import StudyStatus, TrialStatus, relative
from raytune_m2f.training.climb import FLAT
from raytune_m2f.training.symptoms import summary

ENDED = ("complete", "stopped", "failed")
FOOTNOTES = {
    "config": "* the configuration's own values",
    "published": "+ the published loss weights",
    "earlier": "^ a best point of the earlier study",
    "pbt": "> went on from the checkpoint of a better trial",
}
"""The origin of a trial, behind the mark that a table gives it."""
_ADVICE = (
    "Train longer (a new study with a larger SOLVER.MAX_ITER), or search other ranges (SOLVER.BASE_LR first); whether "
    "the losses fall is"
)


class StudyLines:
    """A `Progress` of a study that says lines: each ended trial, and at intervals how far the running ones are.

    Args:
        say: called with each line.
        interval: between two tellings of how far the running trials are, reports or not [s].
    """

    def __init__(self, say: Callable[[str], None] = print_to_stderr, *, interval: float = INTERVAL_S) -> None:
        self._say = say
        self._told: set[int] = set()
        self._status: StudyStatus | None = None
        self._updated = 0.0
        self._lock = threading.Lock()
        self._heart = heartbeat(self.beat, interval=interval)

    def __enter__(self) -> StudyLines:
        self._heart.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heart.__exit__(None, None, None)

    def note(self, text: str) -> None:
        self._say(text)

    def update(self, status: StudyStatus) -> None:
        with self._lock:
            self._status, self._updated = status, time.monotonic()
            self._show()

    def beat(self, seconds: float) -> None:
        """Say how far the study is, `seconds` after its start."""
        with self._lock:
            self._show_time(seconds)

    def _show(self) -> None:
        assert self._status is not None
        for trial in self._status.trials:
            if trial.state in ENDED and trial.number not in self._told:
                self._told.add(trial.number)
                self._say(trial_line(trial, self._status))

    def _show_time(self, seconds: float) -> None:
        lines = [starting_line(seconds)] if self._status is None else study_lines(self._status, seconds, self._left())
        for line in lines:
            self._say(line)

    def _left(self) -> float | None:
        """Seconds left now: those of the last change, less what has gone by since."""
        left = None if self._status is None else self._status.seconds_left
        return None if left is None else max(0.0, left - (time.monotonic() - self._updated))


def starting_line(seconds: float) -> str:
    return f"still starting (Ray, then the first trials), for {duration(seconds)}"


def study_lines(status: StudyStatus, seconds: float, left: float | None) -> list[str]:
    """A line on the study, and one on each running trial, which knows more than its last report."""
    ended = sum(trial.state in ENDED for trial in status.trials)
    waiting = sum(trial.state == "paused" for trial in status.trials)
    limit = status.budget["trials"]
    parts = [
        f"study {relative(status.directory)}: {ended}{f' of {limit:.0f}' if limit else ''} trials ended",
        *([f"{waiting} wait at a rung"] if waiting else []),
        *_best_part(status),
        f"running for {duration(seconds)}",
        *([] if left is None else [f"about {duration(left)} left"]),
    ]
    return [", ".join(parts), *(_running_line(trial, status) for trial in status.trials if trial.state == "running")]


def _best_part(status: StudyStatus) -> list[str]:
    best = status.best_trial
    if best is None:
        return []
    if status.found_nothing:
        return ["nothing found so far"]
    return [f"best {status.metric} {score_text(best.best)} (trial {best.number})"]


def _running_line(trial: TrialStatus, status: StudyStatus) -> str:
    told = read_progress(Path(trial.directory))
    loss = "" if told is None or "loss" not in told.facts else f", loss {told.facts['loss']:.4g}"
    score = "" if trial.last is None else f", last {status.metric} {score_text(trial.last)}"
    return f"  trial {trial.number} at {iterations_done(trial)}/{trial.max_iter}{loss}{score}"


def iterations_done(trial: TrialStatus) -> int:
    """The iterations of the last report, and of a running trial those since, where its files are here."""
    told = read_progress(Path(trial.directory)) if trial.state == "running" else None
    return trial.iteration if told is None else max(trial.iteration, told.done)


def trial_line(trial: TrialStatus, status: StudyStatus) -> str:
    """How a trial has ended."""
    score = "" if trial.best is None else f", best {status.metric} {score_text(trial.best)} at {trial.best_iteration}"
    values = ", ".join(f"{key}={value_text(value)}" for key, value in trial.values.items())
    why = f" [{trial.cause}]" if trial.cause else ""
    return f"trial {trial.number} {trial.state} at {trial.iteration}/{trial.max_iter}{score} ({values}){why}"


def short_line(status: StudyStatus) -> str:
    """How a study stands, in a few words: "8 of 8 trials started, best segm/AP 23.15 (trial 5)"."""
    limit = status.budget["trials"]
    started = f"{status.usage['trials']:.0f}{f' of {limit:.0f}' if limit else ''} trials started"
    words = caveat(status) or ""
    found = [words.partition(":")[0]] if words else _best_part(status)
    return ", ".join([started, *found, *(["running"] if status.driver else [])])


def status_caption(status: StudyStatus) -> str:
    """What stands below the table of a study: counts, the best trial and how sure it is, what comes next."""
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items())
    if not counts:
        return f"no trials yet{_what_comes_next(status)}"
    limit = status.budget["trials"]
    of = f" of {limit:.0f} trials" if limit else " trials"
    best = status.best_trial
    leader = "" if best is None else f"; best: trial {best.number} with {status.metric} {score_text(best.best)}"
    if status.found_nothing:
        leader = f"; no trial has found anything so far ({status.metric} 0.00)"
    origins = dict.fromkeys(trial.origin for trial in status.trials if trial.origin in FOOTNOTES)
    notes = "".join(f"\n{FOOTNOTES[origin]}" for origin in origins if origin)
    leaks = f"\nleaks freed: {status.leaks_freed}" if status.leaks_freed else ""
    start = f"{status.usage['trials']:.0f}{of} started: {counts}{leader}"
    found = (_noise_warning(status), _climbs(status), _heads(status), _symptoms(status))
    return f"{start}{leaks}{''.join(found)}{notes}{_flat(status)}{_what_comes_next(status)}"


def _climbs(status: StudyStatus) -> str:
    """Which trials are compared by their training losses, and why."""
    flat = [trial for trial in status.trials if trial.climbed is not None]
    if not flat:
        return ""
    lowest = max(flat, key=lambda trial: trial.climbed or 0.0)
    return (
        f"\n{status.metric} is flat (below {FLAT:g}) at the latest report of {len(flat)} of {len(status.trials)} "
        "trials: the search compares these by the training loss, under the configuration's own weights; trial "
        f"{lowest.number} has the lowest"
    )


def _heads(status: StudyStatus) -> str:
    """How the heads of the best trial stand in its training."""
    best = status.best_trial
    told = "" if best is None else summary(best.vitals)
    return f"\nin training at its latest report: {told}" if best is not None and told else ""


def _symptoms(status: StudyStatus) -> str:
    """The heads that learn nothing, and in how many trials."""
    lines = [(text, trial.number) for trial in status.trials for text in trial.symptoms]
    heads = dict.fromkeys(text.partition(":")[0] for text, _ in lines)
    said = ""
    for head in heads:
        text, trial = next((text, number) for text, number in lines if text.partition(":")[0] == head)
        others = sum(text.partition(":")[0] == head for text, _ in lines) - 1
        said += f"\nlearns nothing, trial {trial}{f' and {others} more' if others else ''}: {text}"
    return said


def _flat(status: StudyStatus) -> str:
    words = flat_words(status)
    return f"\n{words}" if words else ""


def flat_words(status: StudyStatus) -> str | None:
    """Why no further trial starts where more would bring too little; None where it is otherwise."""
    if status.flat is None:
        return None
    more = f"raytune-m2f extend {quote(relative(status.directory))} --trials {status.flat.trials}"
    return f"the search is flat: {status.flat}. No further trial starts; for more all the same: {more}"


def _what_comes_next(status: StudyStatus) -> str:
    """How long the study still runs, or the command that goes on with it."""
    if status.seconds_left is not None:
        return f"\nabout {duration(status.seconds_left)} left"
    if status.resumable:
        return f"\nnobody runs it; to go on with it: raytune-m2f resume {quote(relative(status.directory))}"
    return ""


def _noise_warning(status: StudyStatus) -> str:
    """A warning where the best trial is not surely the best."""
    best, close = status.best_trial, status.within_noise()
    if best is None or not close:
        return ""
    numbers = ", ".join(str(trial.number) for trial in sorted(close, key=lambda trial: -(trial.best or 0))[:5])
    return (
        f"\nits lead over trial {numbers}{' ...' if len(close) > 5 else ''} is within the noise of the evaluation "
        f"(standard error {best.standard_error:.2f}): `raytune-m2f confirm {relative(status.directory)}` decides"
    )


def closing_words(status: StudyStatus) -> str | None:
    """What the end of a study means: the command that exports the best trial, or why there is none to speak of.

    None if no trial has weights and a score.
    """
    best = status.best_trial
    if best is None or best.best is None:
        return None
    export = f"export the best trial: raytune-m2f export {quote(relative(status.directory))} --output DIR"
    return caveat(status) or export


def train_command(config: str, study: str, trial: TrialStatus, resources: Resources) -> str:
    """The command that trains a trial again, from the start to its end: `train` with its whole configuration.

    Args:
        config: the file of its configuration.
        study: the study's directory or address, after which the new run is called.
    """
    words = ["raytune-m2f", "train", "--config", config, "--output", f"runs/{Path(study).name}_{trial.number}"]
    if resources.most_workers > 1:
        words += ["--workers", str(resources.most_workers)]
    if resources.gpus_per_worker is not None:
        words += ["--gpus-per-worker", f"{resources.gpus_per_worker:g}"]
    return " ".join(map(quote, words))


def caveat(status: StudyStatus) -> str | None:
    """Why the best trial is none to speak of: nothing was found, or all trials score the same. None if it is one."""
    best = status.best_trial
    if best is None or best.best is None:
        return None
    return nothing_found(status) or _no_difference(status, best)


def nothing_found(status: StudyStatus) -> str | None:
    """What to do about a study whose best score is a zero; None if it is not. Such a study has no best trial."""
    best = status.best_trial
    if best is None or not status.found_nothing:
        return None
    flat = [trial for trial in status.trials if trial.climbed is not None]
    lowest = max(flat, key=lambda trial: trial.climbed or 0.0, default=best)
    told_apart = {trial.climbed for trial in flat}
    learned = f"only the training losses told its trials apart (trial {lowest.number} has the lowest)"
    return (
        f"no trial has found anything: the best {status.metric} is {best.best:.2f}, so "
        f"{learned if len(told_apart) > 1 else 'the search has learned nothing'} and there is no best trial. {_ADVICE} "
        f"in {relative(lowest.directory)}/metrics.jsonl."
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


def score_text(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def value_text(value: Any) -> str:
    """A searched value, short."""
    return f"{value:.2g}" if isinstance(value, float) else "" if value is None else str(value)
