"""Weights & Biases: a run for each training, in a project that is called as the study (or as WANDB_PROJECT says).

With WANDB_MODE=offline the run is kept in the folder wandb of the run's directory, for `wandb sync`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from raytune_m2f.loggers.open import LoggedRun

LAST = "last"
"""The note of the last iteration that was written, as an offline run cannot be asked."""


class WandbLogger:
    """Writes reports as steps of a run that goes on under the same id."""

    def __init__(self, run: LoggedRun) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or re.sub(r"[^\w\-. ]", "_", run.study)[:120] or None,
            name=run.name,
            id=run.identity,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            allow_val_change=True,
            reinit="finish_previous",
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._notes = run.notes

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        if iteration <= self._notes.get(LAST, -1):
            return
        self._run.log(dict(numbers), step=iteration, commit=True)
        self._notes[LAST] = iteration

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def open_logger(run: LoggedRun) -> WandbLogger:
    return WandbLogger(run)
