"""How long tests wait for what has to come: no measure of speed, for a loaded core takes a hundred times longer."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 600.0
"""Far beyond what any of them takes, and below pytest's own limit (pyproject.toml), which would not say for what."""


def wait_until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.05)
