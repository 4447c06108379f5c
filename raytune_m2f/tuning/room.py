"""How many trials the cluster has room for now: it may grow and shrink while a study runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from ray.autoscaler.sdk import request_resources

from raytune_m2f.tuning.resources import Allotment, Node, cluster_nodes

LOOK_S = 3.0
MOST_REQUESTED = 1000  # bundles


class Room:
    """Asked before each trial that is handed out; looks at the cluster every LOOK_S seconds at most.

    An autoscaler is asked for as many nodes as the study can use, so that they start side by side; without one, the
    request changes nothing. It is repeated at each look, for Ray Train makes such requests for the trials that run, and
    the cluster knows only the latest.

    Args:
        largest: all nodes that the cluster can have, None if nobody knows: then one trial more than fits is asked for.
        note: tells the user.
    """

    def __init__(self, allotment: Allotment, largest: Sequence[Node] | None, note: Callable[[str], None]) -> None:
        self._allotment = allotment
        self._largest = largest
        self._note = note
        self._looked = -math.inf
        self._trials = 1
        self._waits = False

    def has(self, running: int) -> bool:
        """Whether one trial more than those that run has room."""
        if self._look():
            at_most = self._allotment.room(self._largest) if self._largest is not None else self._trials + 1
            self._request(min(at_most, self._allotment.most or at_most))
        return running < self._trials

    def enough(self, running: int) -> None:
        """No further trial is to come: the nodes of those that have ended may go."""
        if self._look():
            self._request(running)

    def withdraw(self) -> None:
        """At the end of the study."""
        self._request(0)

    def _look(self) -> bool:
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        nodes = cluster_nodes()
        self._trials = self._allotment.room(nodes)
        waits = not self._allotment.fits(nodes)
        if waits and not self._waits:
            self._note("no node that is there now has room for a trial: it starts as soon as one comes")
        self._waits = waits
        return True

    def _request(self, trials: int) -> None:
        bundles = min(trials * self._allotment.workers[1], MOST_REQUESTED)
        request_resources(bundles=[self._allotment.bundle] * bundles)
