"""What a trial and each of its workers get, and how many trials have room now: the cluster may grow and shrink."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import ray
import yaml
from ray.autoscaler.sdk import request_resources

from raytune_m2f.errors import StudyError
from raytune_m2f.launch.job import bundle
from raytune_m2f.launch.nodes import draining_nodes
from raytune_m2f.study.settings import Resources

MOST_CPUS_BESIDE_A_GPU = 16  # more threads than that do not make a GPU faster
MOST_NODES = 1000  # of a kind without a limit
LOOK_S = 3.0
MOST_REQUESTED = 1000  # bundles
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves the autoscaler's configuration, on the head


@dataclass(frozen=True)
class Node:
    """A node's resources."""

    cpus: float
    gpus: float = 0.0

    def slots(self, cpus: float, gpus: float) -> int:
        """Workers that fit; a worker does not spread over nodes, nor a share of a GPU over GPUs."""
        by_cpu = int(self.cpus // cpus)
        if not gpus:
            return by_cpu
        by_gpu = int(self.gpus) * int(1 / gpus + 1e-6) if gpus < 1 else int(self.gpus // gpus)
        return min(by_cpu, by_gpu)


@dataclass(frozen=True)
class Allotment:
    """What is asked of Ray.

    Attributes:
        workers: of a trial, at least and at most; the same number twice if it is fixed.
        most: trials at once at most, whatever the cluster has; None if only the cluster limits them.
    """

    workers: tuple[int, int]
    cpus_per_worker: int
    gpus_per_worker: float
    most: int | None = None

    @property
    def gpus_per_trial(self) -> float:
        return self.workers[1] * self.gpus_per_worker

    @property
    def bundle(self) -> dict[str, float]:
        """What Ray is asked for each worker."""
        return bundle(self.cpus_per_worker, self.gpus_per_worker)

    def room(self, nodes: Sequence[Node]) -> int:
        """Trials at once on these nodes, each with all its workers; with fewer of them only if not even one fits else.

        One at least: it waits in Ray's queue, which is what wakes an autoscaler up, and alone it blocks no other.
        """
        slots = _slots(nodes, self.cpus_per_worker, self.gpus_per_worker)
        return max(1, min(slots // self.workers[1], self.most or slots))

    def fits(self, nodes: Sequence[Node]) -> bool:
        """Whether a trial can run on these nodes at all."""
        return _slots(nodes, self.cpus_per_worker, self.gpus_per_worker) >= self.workers[0]


def cluster_nodes() -> list[Node]:
    """The nodes of the connected cluster that are alive and not announced to go."""
    going = draining_nodes()
    there = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in going]
    return [Node(cpus=found.get("CPU", 0.0), gpus=found.get("GPU", 0.0)) for found in there]


def largest_cluster(bootstrap: Path = BOOTSTRAP) -> list[Node] | None:
    """All nodes that the cluster's autoscaler may have at once; None if it has none, or does not say.

    A managed cluster tells Ray. `ray up` does not; its configuration lies on the head, where it is read.
    """
    told = ray._private.state.state.get_cluster_config()  # private, but nothing public says it
    if told is not None and told.node_group_configs:
        kinds = [(dict(group.resources), group.max_count) for group in told.node_group_configs]
    else:
        try:
            config = yaml.safe_load(bootstrap.expanduser().read_text(encoding="utf-8"))
            head, limit = config["head_node_type"], config.get("max_workers", MOST_NODES)
            kinds = [
                (kind["resources"], 1 if name == head else min(limit, kind.get("max_workers", limit)))
                for name, kind in config["available_node_types"].items()
            ]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            return None
    return [
        Node(cpus=found.get("CPU", 0), gpus=found.get("GPU", 0))
        for found, count in kinds
        for _ in range(MOST_NODES if count < 0 else count)
    ]


def allot(
    nodes: Sequence[Node], wanted: Resources, most_trials: int | None = None, largest: Sequence[Node] | None = None
) -> Allotment:
    """Fill what the user left open.

    What a worker gets must also suit nodes that come later, so it does not depend on how many there are now; only a
    study that they can hold whole shares their CPUs out.

    Args:
        nodes: that are there now.
        most_trials: more at once are of no use.
        largest: all nodes that an autoscaler may have at once, if there is one.
    Raises:
        StudyError: a trial can never fit; with the figures.
    """
    kinds = [*nodes, *(largest or ())]
    gpus = wanted.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in kinds) else 0.0
    cpus = wanted.cpus_per_worker or 1
    fewest, workers = wanted.fewest_workers, wanted.most_workers
    if max(_slots(nodes, cpus, gpus), _slots(largest or (), cpus, gpus)) < fewest:
        raise StudyError(_refusal(nodes, largest, fewest, cpus, gpus))
    limits = [limit for limit in (wanted.concurrent, most_trials) if limit]
    most = min(limits) if limits else None
    if wanted.cpus_per_worker is None:
        cpus = _share(nodes, kinds, gpus, needed=most and most * workers)
    return Allotment((fewest, workers), cpus, gpus, most)


def _share(nodes: Sequence[Node], kinds: Sequence[Node], gpus: float, needed: int | None) -> int:
    """CPUs of a worker, if `needed` workers (None: no limit) are all that there can be at once."""
    most = MOST_CPUS_BESIDE_A_GPU if gpus else int(max(node.cpus for node in kinds))
    counts = range(1, max(1, most) + 1)
    if needed is not None and _slots(nodes, 1, gpus) >= needed:
        return max(count for count in counts if _slots(nodes, count, gpus) >= needed)
    return max(count for count in counts if all(node.slots(count, gpus) >= node.slots(1, gpus) for node in kinds))


def _slots(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    return sum(node.slots(cpus, gpus) for node in nodes)


def _refusal(nodes: Sequence[Node], largest: Sequence[Node] | None, workers: int, cpus: int, gpus: float) -> str:
    """Why a trial does not fit: the totals where they do not suffice, else that a worker does not spread over nodes."""
    there = largest if largest is not None else nodes
    what = f"a trial of {workers} worker(s) with {cpus} CPU(s) and {gpus:g} GPU(s) each"
    can = "the largest the cluster can have is" if largest is not None else "the cluster has"
    for name, needed, total in (
        ("GPU(s)", workers * gpus, sum(node.gpus for node in there)),
        ("CPU(s)", workers * cpus, sum(node.cpus for node in there)),
    ):
        if needed > total:
            reason = f"needs {needed:g} {name}, {can} {total:g}"
            break
    else:
        largest_node = max(there, key=lambda node: (node.gpus, node.cpus), default=Node(0))
        reason = f"does not fit: a worker has to fit on one node, and the largest has {_figures(largest_node)}"
    return f"{what} {reason}. Ask for fewer workers, GPUs or CPUs, or for a larger cluster."


def _figures(node: Node) -> str:
    return f"{node.cpus:g} CPU(s) and {node.gpus:g} GPU(s)"


class Room:
    """Asked before each trial that is handed out; looks at the cluster every LOOK_S seconds at most.

    An autoscaler is asked for as many nodes as the study can use, so that they start side by side; without one, the
    request changes nothing. It is repeated at each look, for Ray Train makes such requests for the trials that run, and
    the cluster knows only the latest.

    Args:
        largest: all nodes that the cluster can have, None if unknown: then one trial more than fits is asked for.
        note: tells the user.
        nodes, request: of the cluster: what is there, and how its autoscaler is asked.
    """

    def __init__(
        self,
        allotment: Allotment,
        largest: Sequence[Node] | None,
        note: Callable[[str], None],
        *,
        nodes: Callable[[], Sequence[Node]] = cluster_nodes,
        request: Callable[..., None] = request_resources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._allotment, self._largest, self._note = allotment, largest, note
        self._nodes, self._ask, self._clock = nodes, request, clock
        self._looked = -math.inf
        self._trials = 1
        self._waits = False

    def has_room(self, running: int) -> bool:
        """Whether one trial more than those that run has room."""
        if self._look():
            at_most = self._allotment.room(self._largest) if self._largest is not None else self._trials + 1
            self._request(min(at_most, self._allotment.most or at_most))
        return running < self._trials

    def shrink_to(self, running: int) -> None:
        """No further trial is to come: the nodes of those that have ended may go."""
        if self._look():
            self._request(running)

    def withdraw(self) -> None:
        """Ask for nothing any more, at the end of the study."""
        self._request(0)

    def _look(self) -> bool:
        now = self._clock()
        if now - self._looked < LOOK_S:
            return False
        self._looked = now
        nodes = self._nodes()
        self._trials = self._allotment.room(nodes)
        waits = not self._allotment.fits(nodes)
        if waits and not self._waits:
            self._note("no node that is there now has room for a trial: it starts as soon as one comes")
        self._waits = waits
        return True

    def _request(self, trials: int) -> None:
        bundles = min(trials * self._allotment.workers[1], MOST_REQUESTED)
        self._ask(bundles=[self._allotment.bundle] * bundles)
