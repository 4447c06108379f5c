from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raytune_m2f.drive.resources import Allotment, Node, allot, largest_cluster
from raytune_m2f.errors import StudyError
from raytune_m2f.study.settings import Resources

LAPTOP = [Node(cpus=2)]
GPU_HOST = [Node(cpus=64, gpus=8)]
HEAD, SPOT = Node(cpus=4), Node(cpus=8, gpus=1)


@pytest.mark.parametrize(
    ("nodes", "wanted", "most", "expected", "at_once"),
    [
        (LAPTOP, Resources(), 8, Allotment((1, 1), 1, 0.0, 8), 2),
        (LAPTOP, Resources(concurrent=1), 8, Allotment((1, 1), 2, 0.0, 1), 1),
        (LAPTOP, Resources(workers=2), 8, Allotment((2, 2), 1, 0.0, 8), 1),
        (LAPTOP, Resources(), 1, Allotment((1, 1), 2, 0.0, 1), 1),
        ([Node(cpus=3)], Resources(workers=2), 8, Allotment((2, 2), 1, 0.0, 8), 1),  # not two: they would wait for ever
        ([Node(cpus=3)], Resources(workers="2:8"), 8, Allotment((2, 8), 1, 0.0, 8), 1),
        (LAPTOP, Resources(workers="1:2"), None, Allotment((1, 2), 1, 0.0), 1),
        (GPU_HOST, Resources(), 99, Allotment((1, 1), 8, 1.0, 99), 8),
        (GPU_HOST, Resources(gpus_per_worker=0), 16, Allotment((1, 1), 4, 0.0, 16), 16),
        (GPU_HOST, Resources(gpus_per_worker=0.5), None, Allotment((1, 1), 4, 0.5), 16),
        (GPU_HOST, Resources(workers=4, cpus_per_worker=2), 99, Allotment((4, 4), 2, 1.0, 99), 2),
        (GPU_HOST, Resources(concurrent=1), 99, Allotment((1, 1), 16, 1.0, 1), 1),
        ([Node(cpus=8), Node(cpus=16, gpus=2)], Resources(), 99, Allotment((1, 1), 8, 1.0, 99), 2),
    ],
)
def test_what_is_left_open_is_filled(
    nodes: list[Node], wanted: Resources, most: int | None, expected: Allotment, at_once: int
) -> None:
    allotment = allot(nodes, wanted, most)
    assert allotment == expected
    assert allotment.room(nodes) == at_once


def test_room_grows_and_shrinks_with_the_cluster() -> None:
    allotment = allot([HEAD, SPOT], Resources(concurrent=3), 20)
    assert allotment.cpus_per_worker == 8  # all of a node beside its GPU, however many nodes there are
    assert [allotment.room([HEAD, *[SPOT] * nodes]) for nodes in range(5)] == [1, 1, 2, 3, 3]
    assert not allotment.fits([HEAD])  # the one trial waits


def test_nodes_that_an_autoscaler_may_start_count_from_the_beginning() -> None:
    smaller = Node(cpus=4, gpus=1)
    allotment = allot([HEAD], Resources(), None, largest=[HEAD, SPOT, SPOT, smaller])
    assert (allotment.gpus_per_worker, allotment.cpus_per_worker) == (1.0, 4)  # so that it fits the smaller kind too
    assert allotment.room([HEAD, SPOT, smaller]) == 2


@pytest.mark.parametrize(
    ("wanted", "figures"),
    [
        (Resources(workers=3), r"needs 3 CPU\(s\), the cluster has 2\."),
        (Resources(workers="3:9"), r"needs 3 CPU\(s\), the cluster has 2\."),
        (Resources(gpus_per_worker=1), r"needs 1 GPU\(s\), the cluster has 0\."),
        (Resources(cpus_per_worker=3), r"needs 3 CPU\(s\), the cluster has 2\."),
    ],
)
def test_an_impossible_demand_is_refused_with_the_figures(wanted: Resources, figures: str) -> None:
    with pytest.raises(StudyError, match=figures):
        allot(LAPTOP, wanted)


def test_what_the_largest_cluster_cannot_hold_is_refused() -> None:
    wanted = Resources(workers=4, gpus_per_worker=1)
    with pytest.raises(StudyError, match=r"needs 4 GPU\(s\), the largest the cluster can have is 2\. Ask for fewer"):
        allot([HEAD], wanted, largest=[HEAD, SPOT, SPOT])
    assert allot([HEAD], wanted, largest=[HEAD, *[SPOT] * 4]).workers == (4, 4)


def test_a_worker_does_not_spread_over_nodes() -> None:
    with pytest.raises(StudyError, match=r"has to fit on one node, and the largest has 2 CPU\(s\)"):
        allot([Node(cpus=2), Node(cpus=2)], Resources(cpus_per_worker=3))


def test_gpus_of_a_trial() -> None:
    assert Allotment((2, 4), 1, 0.5).gpus_per_trial == 2.0


@pytest.mark.parametrize(("text", "fewest", "most"), [(3, 3, 3), ("3", 3, 3), ("2:8", 2, 8), ("2:2", 2, 2)])
def test_workers_are_a_number_or_a_range(text: int | str, fewest: int, most: int) -> None:
    resources = Resources(workers=text)
    assert (resources.fewest_workers, resources.most_workers) == (fewest, most)
    assert isinstance(resources.workers, int) == (fewest == most)


@pytest.mark.parametrize("text", ["0", 0, "-1", "8:2", "2:", "two", "1:2:3"])
def test_what_is_no_number_of_workers_is_refused(text: int | str) -> None:
    with pytest.raises(StudyError, match="a number above 0, or the fewest and the most like 2:8"):
        Resources(workers=text)


class TestLargestCluster:
    def told(self, monkeypatch: pytest.MonkeyPatch, config: Any) -> None:
        monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: config)

    def test_as_a_managed_cluster_tells_ray(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        groups = [
            SimpleNamespace(resources={"CPU": 4}, max_count=1),
            SimpleNamespace(resources={"CPU": 8, "GPU": 1}, max_count=2),
        ]
        self.told(monkeypatch, SimpleNamespace(node_group_configs=groups))
        assert largest_cluster(tmp_path / "none.yaml") == [HEAD, SPOT, SPOT]

    def test_as_ray_up_leaves_it_on_the_head(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.told(monkeypatch, None)
        file = tmp_path / "ray_bootstrap_config.yaml"
        file.write_text(
            "max_workers: 2\nhead_node_type: head\navailable_node_types:\n"
            "  head: {resources: {CPU: 4}}\n  spot: {resources: {CPU: 8, GPU: 1}, max_workers: 9}\n"
        )
        assert largest_cluster(file) == [HEAD, SPOT, SPOT]

    @pytest.mark.parametrize("content", [None, "[", "available_node_types: 3", "- 1"])
    def test_nobody_knows(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
        self.told(monkeypatch, None)
        file = tmp_path / "ray_bootstrap_config.yaml"
        if content is not None:
            file.write_text(content)
        assert largest_cluster(file) is None
