"""The evaluator: ground truth fed back as predictions must score 100."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
