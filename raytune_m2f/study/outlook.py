"""What a study has still to do, and how long that may take."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from optuna.trial import FrozenTrial

from raytune_m2f.progress import read_progress
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.index import is_here


def has_work(record: Record) -> bool:
    """Whether a driver would find something to train."""
    budget, usage = record.plan.settings.budget, record.usage()
    if budget.spent(usage) is not None:
        return False
    if budget.allows_new_trial(usage) or record.unfinished():
        return True
    return record.index.rungs.to_promote(record.index.paused, rounded_up=record.is_full()) is not None


def seconds_left(record: Record) -> float | None:
    """About how long a driver still has to work at the rate so far; None if there is no rate yet.

    The first limit of the budget that is reached counts. The rate is that of all iterations over all the time in which
    a driver ran, so it takes the trials that run at once into account.
    """
    return min(_each_limit(record), default=None)


def _each_limit(record: Record) -> Iterator[float]:
    budget, usage = record.plan.settings.budget, record.usage()
    if budget.seconds is not None:
        yield max(0.0, budget.seconds - usage.seconds)
    if not usage.seconds:
        return
    iterations = usage.iterations + sum(_since_report(record, number) for number in record.unfinished())
    if budget.iterations is not None and usage.iterations:
        yield max(0, budget.iterations - usage.iterations) * usage.seconds / usage.iterations
    if budget.gpu_hours is not None and usage.gpu_hours:
        yield max(0.0, budget.gpu_hours - usage.gpu_hours) * usage.seconds / usage.gpu_hours
    if budget.trials is not None and iterations:
        yield _iterations_left(record, max(0, budget.trials - usage.trials)) * usage.seconds / iterations


def _iterations_left(record: Record, new_trials: int) -> float:
    """Of the trials that have begun and of `new_trials` more, which are taken to be as long as those that ended."""
    whole = record.index.max_iter
    trials = [trial for trial in record.trials() if is_here(trial)]
    ended = [_length(trial) for trial in trials if trial.state.is_finished()]
    typical = statistics.fmean(ended) if ended else _expected_length(record)
    unfinished = set(record.unfinished())
    done = [
        (trial.last_step or 0) + _since_report(record, trial.number) for trial in trials if trial.number in unfinished
    ]
    return new_trials * typical + sum((typical if far < typical else whole) - far for far in done)


def _expected_length(record: Record) -> float:
    """How long a trial is, while none has ended: with ASHA one in `factor` goes on at each rung."""
    rungs, whole = record.index.rungs, record.index.max_iter
    if record.plan.settings.early_stopping.method != "asha":
        return whole
    length, share, last = 0.0, 1.0, 0
    for rung in (*rungs.iterations, whole):
        length += share * (rung - last)
        share, last = share / rungs.factor, rung
    return length


def _since_report(record: Record, number: int) -> int:
    """The iterations of a running trial since its last report, where its files are here."""
    told = read_progress(record.directory.trial(number))
    return 0 if told is None else max(0, told.done - (record.trial(number).last_step or 0))


def _length(trial: FrozenTrial) -> int:
    """The iterations that a trial has trained itself."""
    start: int = trial.user_attrs.get("start", 0)
    return max(0, (trial.last_step or 0) - start)
