"""The reports of a training in other tools too (LOGGERS), beside metrics.jsonl, which stays the record.

names.py        the loggers by name, the packages that they need, and `require_loggers`
open.py         `Loggers`: all of a run's, written by rank 0; a report reaches each once, also after a resume
tensorboard.py  an event file in the run's directory
mlflow.py       a run of MLflow
wandb.py        a run of Weights & Biases

A logger that fails (a server that is down) is told in the log and ends no training: what it lacks is written with the
next report.
"""
