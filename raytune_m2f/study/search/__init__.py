"""What a search knows of its trials, and what it makes of it: curves of trials, and a model of them.

curves.py   a trial as the search sees it: its values, and a score at each report
axes.py     a search space as a unit cube, with what is believed of it beforehand
model.py    a Gaussian process over (keys, iteration): what a point would score at the end
choose.py   which point is tried next
promise.py  who goes on at a rung: what a trial promises
insight.py  what was learned: importance of the keys, their best regions, rungs against the end, what more trials bring

Nothing here knows of Ray, of files or of Optuna's storage.
"""
