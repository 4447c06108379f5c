"""Examine a configuration, its data and its network before GPU time is spent on them: docs/doctor.md.

finding.py    Finding and Check: what a check is, and what it says
subject.py    Subject: what is examined, each part built once
examine.py    the checks in order, and what they have found
labels.py     data, as the annotation files say it
images.py     data, as the image files say it
scoring.py    the evaluator on ground truth
settings.py   the configuration
keys.py       keys without effect, and the search space
excerpt.py    windows of training images for what follows
bench.py      our network on them
network.py    the network before its first step
losses.py     of it, matching and loss
learning.py   whether it learns one batch
cost.py       time and memory of a trial and of a study
"""
