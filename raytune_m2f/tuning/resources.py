"""How many trials run at once and what each worker gets, from what the cluster has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from raytune_m2f.errors import StudyError
from raytune_m2f.tuning.settings import Resources

MOST_CPUS_BESIDE_A_GPU = 16  # more threads than that do not make a GPU faster


@dataclass(frozen=True)
class Node:
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
        concurrent: trials at once. Never more than fit with all their workers: two trials that each hold half of
            what they need would wait for each other for ever.
    """

    concurrent: int
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float

    @property
    def gpus_per_trial(self) -> float:
        return self.workers * self.gpus_per_worker


def cluster_nodes() -> list[Node]:
    """The nodes that are alive in the connected cluster."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(cpus=found.get("CPU", 0.0), gpus=found.get("GPU", 0.0)) for found in alive]


def allot(nodes: Sequence[Node], wanted: Resources, most_trials: int | None = None) -> Allotment:
    """Fill what the user left open.

    Args:
        most_trials: more at once are of no use.
    Raises:
        StudyError: a trial does not fit; with the figures.
    """
    gpus = wanted.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.gpus >= 1 for node in nodes) else 0.0
    cpus = wanted.cpus_per_worker or 1
    fitting = _slots(nodes, cpus, gpus) // wanted.workers
    if fitting < 1:
        raise StudyError(
            f"a trial of {wanted.workers} worker(s) with {cpus} CPU(s) and {gpus:g} GPU(s) each does not fit: "
            f"the nodes have {_figures(nodes)}. Ask for fewer workers, GPUs or CPUs, or for a larger cluster."
        )
    concurrent = min([fitting, *(limit for limit in (wanted.concurrent, most_trials) if limit)])
    if wanted.cpus_per_worker is None:
        most = MOST_CPUS_BESIDE_A_GPU if gpus else int(max(node.cpus for node in nodes))
        needed = concurrent * wanted.workers
        cpus = max(count for count in range(1, max(1, most) + 1) if _slots(nodes, count, gpus) >= needed)
    return Allotment(concurrent, wanted.workers, cpus, gpus)


def _slots(nodes: Sequence[Node], cpus: float, gpus: float) -> int:
    return sum(node.slots(cpus, gpus) for node in nodes)


def _figures(nodes: Sequence[Node]) -> str:
    return "; ".join(f"{node.cpus:g} CPU(s) and {node.gpus:g} GPU(s)" for node in nodes) or "nothing"
