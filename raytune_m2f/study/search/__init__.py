"""What a search knows of its trials, and what it makes of it: curves of trials, and a model of them.

curves    a trial as the search sees it: its values, and a score at each report
axes      a search space as a unit cube, with what is believed of it beforehand
model     a Gaussian process over (keys, iteration): what a point would score at the end
choose    which point is tried next
insight   what was learned: importance of the keys, their best regions, rungs against the end, what more trials bring

Nothing here knows of Ray, of files or of Optuna's storage.
"""
