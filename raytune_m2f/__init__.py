"""Tune a multitask Mask2Former with Ray Tune and Optuna."""

__version__ = "0.1.0"
