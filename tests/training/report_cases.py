"""Reports of equal runs."""

from __future__ import annotations

from raytune_m2f.training.reports import Report

MEASURED = {"seconds", "latency_ms", "memory_gb"}


def same(report: Report) -> Report:
    """A report without what differs between equal runs."""
    return {name: value for name, value in report.items() if name not in MEASURED}
