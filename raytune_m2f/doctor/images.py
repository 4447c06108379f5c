"""Data, as the image files say it: sizes, EXIF rotation, files that cannot be read, duplicates across the split."""

from __future__ import annotations

from raytune_m2f.doctor.finding import Check

CHECKS: tuple[Check, ...] = ()
