"""How a trial is launched: in this process, in that of a Ray Tune trial, or over several Ray Train workers.

job.py            what is trained, and the one call of `train_trial`
place.py          the trial's directory: lock, log, stop request, notes, store
here.py           `raytune-m2f train`: in this process, or over workers
trial.py          one trial of a study, in its own process
workers.py        several Ray Train workers: their caller, and each of them
bridge.py         reports and answers between the two; how often the workers start again
groups.py         placement groups that ended trials have left
nodes.py          nodes that are announced to go, or lost
session.py        the connection to Ray
local_session.py  a Ray session of our own on this machine
"""
