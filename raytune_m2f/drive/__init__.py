"""Driving a study: Ray Tune runs its trials, and is told at each event what the record says.

runner.py      `run_study`: start, resume and extend, one path
ray_tune.py    Tune's side: its trainable, and what it calls
driver.py      what happens at each event: next trial, report, end, time
resources.py   what a trial gets, and how many trials have room
population.py  population based training: successors of stopped trials
preflight.py   data and space, checked before a study is made
tidy.py        which files are deleted, or moved aside
"""
