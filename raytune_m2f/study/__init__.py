"""A study: what it is asked to do, its directory, its record, and what can be said of it; without torch or Ray.

settings.py   budget, metrics, early stopping, resources
space/        the search space
plan.py       study.yaml: settings, space, configuration, data; asking more of a study
directory.py  the files of a study, in a directory or on a store; who drives it
layout.py     laying out a new study
record/       what its trials did, kept by Optuna
search/       what a search knows of its trials, and what it makes of it
commands.py   what was typed to drive it
points.py     the known points that are tried first
confirm.py    training the best trials again under new seeds
learned.py    what it has learned: which keys matter, what further trials would bring
status.py     how it stands: its trials, its budget, the best trial, who runs it, what is still to do
lines.py      the same in plain lines, while it runs and at its end
"""
