"""The multitask Mask2Former: network, matching, loss and inference. torch only."""

from model.structures import UNKNOWN, Instances, Target

__all__ = ["UNKNOWN", "Instances", "Target"]
