"""Nodes that go: announced, so that a checkpoint can still be written, or lost without a word.

Ray is told that a node goes by `ray drain-node`, by SIGTERM to `ray start --block`, or by its autoscaler. Whoever runs
there then trains on, for the node may live for minutes, and saves now and then. A process that has died with its node
is no failure of its trial.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

NODE = ".node"
POLL_S = 2.0
SAVE_AGAIN_S = 30.0  # a node that was announced to go may live for minutes
ANSWER_S = 30.0  # Ray itself takes about half a minute to see that a node is lost
MOST_LOSSES = 10  # in a row, without a report in between

log = logging.getLogger(__name__)


def own_node() -> str:
    """The id of this process's node."""
    return str(ray.get_runtime_context().get_node_id())


def draining_nodes() -> frozenset[str]:
    """The ids of the nodes that were announced to go."""
    return frozenset(ray._private.state.state.get_draining_nodes())  # what Ray Train's own watcher asks; none is public


def is_lost(node: str, timeout: float = ANSWER_S) -> bool:
    """Whether a node is gone or about to go: Ray says so, or it does not answer within `timeout` seconds."""
    alive = {found["NodeID"] for found in ray.nodes() if found["Alive"]}
    if node not in alive or node in draining_nodes():
        return True
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    try:
        ray.get(ray.remote(_answer).options(num_cpus=0, scheduling_strategy=where).remote(), timeout=timeout)
    except ray.exceptions.RayError:
        return True
    return False


def _answer() -> None:
    pass


def note_node(output_dir: Path) -> None:
    """Leave word where this trial runs, for its death to be judged."""
    (output_dir / NODE).write_text(own_node(), encoding="utf-8")


def noted_node(output_dir: Path) -> str | None:
    """Where the trial ran; None if it never got there."""
    try:
        return (output_dir / NODE).read_text(
            encoding="utf-8", errors="replace"
        ) or None  # empty: killed while it was written
    except FileNotFoundError:
        return None


class Announcement:
    """Whether one of these nodes is announced to go: `with Announcement(nodes) as announced: ... announced.due()`.

    A thread of its own asks every POLL_S seconds, so that training does not wait for the answer.
    """

    def __init__(self, nodes: Collection[str]) -> None:
        self._nodes = frozenset(nodes)
        self._over = threading.Event()
        self._announced = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="announcement", daemon=True)
        self._saved_at: float | None = None

    def due(self) -> bool:
        """Whether a checkpoint should be written now: at once when it is announced, and then every SAVE_AGAIN_S."""
        if not self._announced.is_set():
            return False
        now = time.monotonic()
        if self._saved_at is not None and now - self._saved_at < SAVE_AGAIN_S:
            return False
        if self._saved_at is None:
            log.warning("this trial's node is announced to go: a checkpoint is written now")
        self._saved_at = now
        return True

    def announce(self) -> None:
        """Take it as announced."""
        self._announced.set()

    def _watch(self) -> None:
        while not self._over.wait(POLL_S):
            try:
                gone = self._nodes & draining_nodes()
            except Exception:  # of a cluster that is just then going down; the next time tells
                continue
            if gone:
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
