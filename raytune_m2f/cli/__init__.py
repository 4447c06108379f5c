"""The command line: words in, the Python API, tables out.

main.py      the commands, and those on a training or a model
study.py     the commands on a study
report.py    report: a study as one file of HTML
cluster.py   the commands on jobs of a cluster
submit.py    the command line of a job, checked and rewritten for the cluster
init.py      init: a project from an export
doctor.py    doctor: what is wrong, before GPU time is spent
demo.py      the demo, and its pictures
options.py   options of several commands, and how their words are checked
console.py   stdout, stderr, the log, and errors as one message
scores.py    what an evaluation says
tables.py    tables of a study, also while it runs
"""
