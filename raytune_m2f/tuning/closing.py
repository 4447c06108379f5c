"""What is said when a study has ended: how to use the best trial, or that there is none to speak of."""

from __future__ import annotations

from shlex import quote

from raytune_m2f.training.objective import Objective
from raytune_m2f.tuning.status import StudyStatus, TrialStatus, relative

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
