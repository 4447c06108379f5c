"""Data, as the annotation files say it: labels, categories, masks, instances per image, splits."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
