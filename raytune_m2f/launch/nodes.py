"""Nodes that go: announced, so that a checkpoint can still be written, or lost without notice.

Ray is told that a node goes by `ray drain-node`, by SIGTERM to `ray start --block`, or by its autoscaler. The workers
there then train on, for the node may live for minutes, and save from time to time. A process that has died with its
node is no failure of its trial.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NODE = ".node"
"""The note of a trial's process in the trial's directory: the node that it runs on."""
POLL_S = 2.0
SAVE_AGAIN_S = 30.0  # a node that was announced to go may live for minutes
ANSWER_S = 30.0  # Ray itself takes about half a minute to see that a node is lost
MOST_LOSSES = 10  # in a row, without a report in between

log = logging.getLogger(__name__)


def own_node() -> str:
    """The id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def noted_node(output_dir: Path) -> str | None:
    """The id of the node where the trial ran; None if it never got there."""
    try:
        text = (output_dir / NODE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return text or None  # empty: killed while it was written


def draining_nodes() -> frozenset[str]:
    """The ids of the nodes that were announced to go."""
    return frozenset(ray._private.state.state.get_draining_nodes())  # what Ray Train's own watcher asks; none is public


def _known_nodes() -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = ray.nodes()
    return found


def is_lost(
    node: str,
    timeout: float = ANSWER_S,
    *,
    known: Callable[[], Sequence[dict[str, Any]]] = _known_nodes,
    draining: Callable[[], frozenset[str]] = draining_nodes,
) -> bool:
    """Whether a node is gone or about to go: Ray says so, or it does not answer within `timeout` seconds."""
    alive = {found["NodeID"] for found in known() if found["Alive"]}
    if node not in alive or node in draining():
        return True
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        ray.get(ray.remote(_answer).options(num_cpus=0, scheduling_strategy=where).remote(), timeout=timeout)
    except ray.exceptions.RayError:
        return True
    return False


def _answer() -> None:
    pass


class Announcement:
    """Whether one of these nodes is announced to go: `with Announcement(nodes) as announced: ... announced.due()`.

    A thread of its own asks every `poll` seconds, so that training does not wait for the answer.
    """

    def __init__(
        self,
        nodes: Collection[str],
        *,
        draining: Callable[[], frozenset[str]] = draining_nodes,
        poll: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._nodes, self._draining, self._poll, self._clock = frozenset(nodes), draining, poll, clock
        self._over = threading.Event()
        self._announced = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="announcement", daemon=True)
        self._saved_at: float | None = None

    def due(self) -> bool:
        """Whether a checkpoint should be written now: at once when it is announced, and then every SAVE_AGAIN_S."""
        if not self._announced.is_set():
            return False
        now = self._clock()
        if self._saved_at is not None and now - self._saved_at < SAVE_AGAIN_S:
            return False
        if self._saved_at is None:
            log.warning("this trial's node is announced to go: a checkpoint is written now")
        self._saved_at = now
        return True

    def announce(self) -> None:
        """Take it as announced."""
        self._announced.set()

    def wait(self, seconds: float) -> bool:
        """Whether it is announced within so many seconds."""
        return self._announced.wait(seconds)

    def _watch(self) -> None:
        while not self._over.wait(self._poll):
            try:
                going = self._nodes & self._draining()
            except Exception:  # of a cluster that is just then going down; it is asked again
                continue
            if going:
                self.announce()
                return

    def __enter__(self) -> Announcement:
        if self._nodes:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
