"""Which checkpoints are of no more use: deleted as soon as a trial has ended, for a study writes many gigabytes.

To go on with a trial takes its newest checkpoint; one that has ended never goes on. Its weights are of use if it is
among the best, or the configuration's own values, to which the best is compared.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.training.checkpoint import iteration_file, newest_first
from raytune_m2f.tuning.record import Record


class Tidy:
    """Deletes what is of no more use, in the directories of ended trials only.

    Args:
        record: of the study; trials that ended before are looked through once.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._ranked: list[tuple[float, int]] = []
        self._of_population: set[tuple[int, int]] = set()  # trial, rung: a successor may start from it
        for trial in record.trials(TrialState.COMPLETE, TrialState.PRUNED):
            if record.directory.weights(trial.number).exists():
                self.ended(trial)

    def ended(self, trial: FrozenTrial) -> None:
        """Tidy after a trial. What a failed one left is kept, for a person to look at."""
        score = self._record.score(trial)
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or score is None:
            return
        self._drop_checkpoints(trial.number)
        if trial.user_attrs.get("origin") == "config":
            return
        self._ranked.append((score if self._record.is_feasible(trial) else -float("inf"), -trial.number))
        self._ranked.sort(reverse=True)
        for _, number in self._ranked[self._record.plan.settings.keep_checkpoints :]:
            _delete(self._record.directory.weights(-number))
        del self._ranked[self._record.plan.settings.keep_checkpoints :]

    def _drop_checkpoints(self, number: int) -> None:
        index = self._record.index
        useful = set()
        if self._record.plan.settings.early_stopping.method == "pbt":
            self._of_population |= {(number, rung) for rung in index.rungs.iterations}
            kept = {(trial, rung) for trial, rung in self._of_population if trial in index.rungs.best(rung)}
            for trial, rung in self._of_population - kept:
                if trial != number:
                    _delete(iteration_file(self._folder(trial), index.evaluation_at(rung)))
            self._of_population = kept
            useful = {iteration_file(self._folder(number), index.evaluation_at(r)) for t, r in kept if t == number}
        for path in newest_first(self._folder(number)):
            if path not in useful:
                _delete(path)

    def _folder(self, number: int) -> Path:
        return self._record.directory.trial(number) / "checkpoints"


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # gone, or somebody holds it open: it costs room, no more
        path.unlink()
