"""Tuning: Ray Tune runs the trials, an Optuna study in the study's directory is the record of truth."""
