"""Ours against Mask2Former itself: scripts, and dated notes of what they measured."""
