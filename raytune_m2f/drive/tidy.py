"""Files of no more use: checkpoints of ended trials are deleted, directories of lost trials are moved aside.

To resume a trial takes its newest checkpoint; one that has ended is never resumed, and a study writes many gigabytes.
The weights of an ended trial are of use if it is among the best, or the configuration's own values, to which the best
is compared. With pbt, the checkpoints that the best trials had at a rung are of use to their successors.

A record that lost its end (to a crash, or because an older copy of it was restored) gives numbers out a second time. A
trial that gets the values that its number had before finds its own checkpoints and resumes from them. One that gets
other values must not: what is there is moved aside, and nothing of it is lost.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.config.yaml_file import flatten, read_yaml
from raytune_m2f.drive.population import folder_of
from raytune_m2f.errors import StudyError
from raytune_m2f.study.record.record import Record
from raytune_m2f.training.checkpoint_files import newest_first, rung_file
from raytune_m2f.training.trial_dir import CONFIG

log = logging.getLogger(__name__)


class Tidy:
    """Deletes checkpoints that are of no more use, when a trial has ended.

    Args:
        record: of the study; trials that ended before are looked through once.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        self._ranked: list[tuple[bool, tuple[int, float], int]] = []
        record.directory.commit()  # that they have ended is known before anything is deleted
        for trial in record.trials(TrialState.COMPLETE, TrialState.PRUNED):
            self._drop_checkpoints_of(trial)
        self._drop_rungs()

    def ended(self, trial: FrozenTrial) -> None:
        """Delete what is of no more use. What a failed trial left is kept, for a person to look at."""
        self._record.directory.commit()
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._drop_checkpoints_of(trial)
        self._drop_rungs()

    def _drop_checkpoints_of(self, trial: FrozenTrial) -> None:
        weights = self._record.directory.weights(trial.number)
        for path in newest_first(weights.parent):
            self._delete(path)
        rank = self._record.rank(trial)
        if rank is None or trial.user_attrs.get("origin") == "config" or not weights.exists():
            return
        self._ranked.append((self._record.is_feasible(trial), rank, -trial.number))
        self._ranked.sort(reverse=True)
        for *_, number in self._ranked[self._record.plan.settings.keep_checkpoints :]:
            self._delete(self._record.directory.weights(-number))
        del self._ranked[self._record.plan.settings.keep_checkpoints :]

    def _drop_rungs(self) -> None:
        """With few trials at a rung its best floor(n / eta) are none: the best ceil(n / eta) may still be wanted."""
        record, index = self._record, self._record.index
        if record.plan.settings.early_stopping.method != "pbt":
            return
        useful = {rung_file(folder_of(record, parent), start) for parent, start in index.heirs.values()}
        for rung in index.rungs.iterations:
            best, iteration = index.rungs.best(rung, rounded_up=True), index.evaluation_at(rung)
            useful |= {rung_file(folder_of(record, number), iteration) for number in best}
        for path in record.directory.trials.glob("*/checkpoints/rung_*.pth"):
            if path not in useful:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        with contextlib.suppress(OSError):  # it is open elsewhere: it takes room, no more
            self._record.directory.unlink(path)


def set_aside_others(record: Record, number: int) -> None:
    """Move what another trial has left in the directory of a new one."""
    directory = record.directory
    directory.pull_trial(number)
    if (directory.trial(number) / CONFIG).exists() and not _is_its_own(record, number):
        aside = directory.set_aside(number)
        log.warning(
            "%s holds a training with other values than trial %d has, of a record that is lost: it is kept in %s",
            directory.address_of(directory.trial(number)),
            number,
            aside,
        )


def _is_its_own(record: Record, number: int) -> bool:
    try:
        there = flatten(read_yaml(record.directory.trial(number) / CONFIG, StudyError))
    except StudyError:
        return False
    values = record.values(record.trial(number))
    return all(key in there and there[key] == value for key, value in values.items())
