"""The configuration: learning rate for its batch, schedule, batch and workers, loss weights, keys without effect."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
