"""The network before its first step: losses, gradients, outputs that depend on the image, matching."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
