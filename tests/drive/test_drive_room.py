"""How many trials run at once as the cluster grows and shrinks, and what its autoscaler is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from raytune_m2f.drive.resources import LOOK_S, Allotment, Node, Room

HEAD, WORKER = Node(cpus=1), Node(cpus=8, gpus=2)
ALLOTMENT = Allotment(workers=(2, 2), cpus_per_worker=4, gpus_per_worker=1.0, most=3)
BUNDLE = {"CPU": 4, "GPU": 1.0}


class Cluster:
    def __init__(self) -> None:
        self.nodes: list[Node] = [HEAD]
        self.now = 1000.0
        self.looks = 0
        self.requested: list[dict[str, float]] | None = None
        self.notes: list[str] = []

    def look(self) -> list[Node]:
        self.looks += 1
        return self.nodes

    def request(self, bundles: list[dict[str, float]]) -> None:
        self.requested = bundles

    def room(self, largest: Sequence[Node] | None = None) -> Room:
        return Room(
            ALLOTMENT, largest, self.notes.append, nodes=self.look, request=self.request, clock=lambda: self.now
        )

    def change(self, *nodes: Node) -> None:
        self.nodes = [HEAD, *nodes]
        self.now += LOOK_S


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_it_grows_and_shrinks_with_the_cluster(cluster: Cluster) -> None:
    asked = cluster.room()
    for nodes, most in ((0, 1), (1, 1), (2, 2), (5, 3), (1, 1)):
        cluster.change(*[WORKER] * nodes)
        assert [asked.has_room(running) for running in range(4)] == [running < most for running in range(4)]
    assert cluster.looks == 5


def test_a_trial_that_fits_no_node_yet_waits_and_the_user_is_told_once(cluster: Cluster) -> None:
    asked = cluster.room()
    assert asked.has_room(0)
    cluster.change()
    assert not asked.has_room(1)
    assert cluster.notes == ["no node that is there now has room for a trial: it starts as soon as one comes"]
    cluster.change(WORKER)
    asked.has_room(1)
    cluster.change()
    asked.has_room(1)
    assert len(cluster.notes) == 2


def test_the_autoscaler_is_asked_for_all_that_the_study_can_use(cluster: Cluster) -> None:
    asked = cluster.room(largest=[HEAD, *[WORKER] * 4])
    asked.has_room(0)
    assert cluster.requested == [BUNDLE] * 6  # three trials at once, whatever is there
    cluster.now += LOOK_S
    asked.shrink_to(1)
    assert cluster.requested == [BUNDLE] * 2
    asked.withdraw()
    assert cluster.requested == []


def test_an_autoscaler_whose_limit_is_unknown_is_asked_for_one_trial_more(cluster: Cluster) -> None:
    asked = cluster.room()
    for nodes, trials in ((0, 2), (1, 2), (2, 3), (3, 3)):
        cluster.change(*[WORKER] * nodes)
        asked.has_room(0)
        assert cluster.requested == [BUNDLE] * 2 * trials
