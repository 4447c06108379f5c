"""What the trials of a study did, kept by Optuna.

record.py      Record: asking for trials, telling what they did
attributes.py  the attributes of a trial, with their types; why it failed
index.py       totals over the trials: what was used, who waits, values at the rungs
rungs.py       early stopping: successive halving, population based training
promotion.py   which trial that waits goes on; how the end of the budget is kept for the best of them
gains.py       what further trials were expected to bring: when a study is flat
samplers.py    which of Optuna's samplers chooses the next point
storage.py     where the record is: a journal in the study's directory, or a database
journal.py     optuna.journal, checked before Optuna reads it
"""

from raytune_m2f.study.record.record import Record

__all__ = ["Record"]
