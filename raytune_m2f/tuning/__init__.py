"""Tuning: Ray Tune runs the trials, an Optuna study in the study's directory is the record of truth.

study.py      the directory, its lock and its plan         settings.py   budget, early stopping, resources
space.py      what may vary                                search.py     samplers and known-good points
record.py     reports and ends, in Optuna                  asha.py       who is stopped early
driver.py     what happens at each event                   searcher.py   Ray Tune's view of the driver
runner.py     start, resume, extend: one path              trial.py      one trial, in its own process
status.py     how a study stands                           progress.py   the same, live
preflight.py  data and space, before anything runs
"""

from raytune_m2f.tuning.preflight import check_before_start
from raytune_m2f.tuning.progress import StudyProgress, status_table
from raytune_m2f.tuning.runner import create_study, run_study
from raytune_m2f.tuning.settings import Budget, EarlyStopping, Resources, StudySettings
from raytune_m2f.tuning.space import SearchSpace, load_space
from raytune_m2f.tuning.status import StudyStatus, TrialStatus, study_status, trial_to_export
from raytune_m2f.tuning.study import StudyDirectory

__all__ = [
    "Budget",
    "EarlyStopping",
    "Resources",
    "SearchSpace",
    "StudyDirectory",
    "StudyProgress",
    "StudySettings",
    "StudyStatus",
    "TrialStatus",
    "check_before_start",
    "create_study",
    "load_space",
    "run_study",
    "status_table",
    "study_status",
    "trial_to_export",
]
