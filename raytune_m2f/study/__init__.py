"""A study: what it is asked to do, its directory, its record, and what can be said of it; without torch or Ray.

settings.py   budget, metrics, early stopping, resources
space/        the search space
plan.py       study.yaml: settings, space, configuration
directory.py  the files of a study, in a directory or on a store; who drives it
layout.py     laying out a new study
record/       what its trials did, kept by Optuna
points.py     the known points that are tried first
same_data.py  whether the data are those that the study began with
extend.py     asking more of a study
confirm.py    training the best trials again under new seeds
status.py     what `status` shows
outlook.py    what is still to do
"""
