"""Whether it learns: one batch is overfitted; each head, and the masks, by themselves."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
