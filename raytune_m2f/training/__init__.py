"""Training: the story of a trial, the same in every process that trains.

worker.py            `train_trial`: from the newest checkpoint to the last report
step.py              one optimizer step, over micro-batches and workers
average.py           an average of the weights
check.py             what can go wrong before the first step
checkpoint.py        writing and reading checkpoints
reports.py           `TrialContext`, and metrics.jsonl
objective.py         metrics and constraints as text
climb.py             what is climbed where the metric is flat
memory.py            out of memory; what a trial takes of memory and time
symptoms.py          what the vitals of a report say: heads that learn nothing
trial_dir.py         what else is in a trial's directory
"""
