"""What a trial and a study cost in time and memory, from a few measured steps."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
