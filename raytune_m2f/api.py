"""Tuning: Ray Tune runs the trials, an Optuna study in the study's directory is the record of truth.

study.py      the directory, its lock and its plan         settings.py   budget, early stopping, resources
space.py      what may vary                                search.py     samplers and known-good points
layout.py     a new study, or a refusal                    journal.py    optuna.journal, and what can be wrong with it
storage.py    where Optuna keeps the study                 record.py     reports and ends, in Optuna
index.py      the record's sums, kept up to date           rungs.py      who is stopped early, or goes on
population.py who takes a stopped trial's place            tidy.py       which checkpoints are of no more use
driver.py     what happens at each event                   searcher.py   Ray Tune's view of the driver
runner.py     start, resume, extend: one path              trial.py      one trial, in its own process
extend.py     more budget, another space                   earlier.py    what an earlier study knows
confirm.py    the best again, under new seeds              failures.py   why a trial failed
status.py     how a study stands                           progress.py   the same, live
outlook.py    what it has still to do                      closing.py    what is said at its end
lock.py       the only driver                              same_data.py  whether the data are still the study's
remote.py     a study on an object store                   preflight.py  data and space, before anything runs

A name below is imported when it is first used: who reads a study must not wait for torch and Ray, which run one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raytune_m2f.cli.tables import (
        StudyProgress,
        closing_words,
        confirmation_table,
        rows_that_fit,
        shown_progress,
        status_table,
        verdict,
    )
    from raytune_m2f.drive.preflight import check_before_start
    from raytune_m2f.drive.runner import run_study
    from raytune_m2f.study.confirm import Confirmation, confirm_study
    from raytune_m2f.study.directory import StudyDirectory, StudyPlan, plan_of
    from raytune_m2f.study.extend import Extension
    from raytune_m2f.study.layout import NewStudy, create_study, new_study
    from raytune_m2f.study.points import knowledge_of
    from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, StudySettings
    from raytune_m2f.study.space import SearchSpace, load_space
    from raytune_m2f.study.space.grid import grid
    from raytune_m2f.study.status import StudyStatus, TrialStatus, study_status, trial_to_export

__all__ = [
    "Budget",
    "Confirmation",
    "EarlyStopping",
    "Extension",
    "NewStudy",
    "Resources",
    "SearchSpace",
    "StudyDirectory",
    "StudyPlan",
    "StudyProgress",
    "StudySettings",
    "StudyStatus",
    "TrialStatus",
    "check_before_start",
    "closing_words",
    "confirm_study",
    "confirmation_table",
    "create_study",
    "grid",
    "knowledge_of",
    "load_space",
    "new_study",
    "plan_of",
    "rows_that_fit",
    "run_study",
    "shown_progress",
    "status_table",
    "study_status",
    "trial_to_export",
    "verdict",
]

_HOMES = {
    "study.confirm": ("Confirmation", "confirm_study"),
    "study.points": ("knowledge_of",),
    "study.extend": ("Extension",),
    "study.layout": ("NewStudy", "create_study", "new_study"),
    "drive.preflight": ("check_before_start",),
    "cli.tables": (
        "closing_words",
        "StudyProgress",
        "confirmation_table",
        "rows_that_fit",
        "shown_progress",
        "status_table",
        "verdict",
    ),
    "drive.runner": ("run_study",),
    "study.settings": ("Budget", "EarlyStopping", "Resources", "StudySettings"),
    "study.space": ("SearchSpace", "load_space"),
    "study.space.grid": ("grid",),
    "study.status": ("StudyStatus", "TrialStatus", "study_status", "trial_to_export"),
    "study.directory": ("StudyDirectory", "StudyPlan", "plan_of"),
}
"""The module of each name."""


if not TYPE_CHECKING:  # else every name, also one that is not there, would be known to a type checker

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"raytune_m2f.{home}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
