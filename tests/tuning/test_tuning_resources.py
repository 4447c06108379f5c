from __future__ import annotations

import pytest

from raytune_m2f.errors import StudyError
from raytune_m2f.tuning.resources import Allotment, Node, allot
from raytune_m2f.tuning.settings import Resources

LAPTOP = [Node(cpus=2)]
GPU_HOST = [Node(cpus=64, gpus=8)]


@pytest.mark.parametrize(
    ("nodes", "wanted", "most", "expected"),
    [
        (LAPTOP, Resources(), 8, Allotment(2, 1, 1, 0.0)),
        (LAPTOP, Resources(concurrent=1), 8, Allotment(1, 1, 2, 0.0)),
        (LAPTOP, Resources(workers=2), 8, Allotment(1, 2, 1, 0.0)),
        (LAPTOP, Resources(), 1, Allotment(1, 1, 2, 0.0)),
        ([Node(cpus=3)], Resources(workers=2), 8, Allotment(1, 2, 1, 0.0)),  # not two: they would wait for ever
        (GPU_HOST, Resources(), 99, Allotment(8, 1, 8, 1.0)),
        (GPU_HOST, Resources(gpus_per_worker=0), 16, Allotment(16, 1, 4, 0.0)),
        (GPU_HOST, Resources(gpus_per_worker=0.5), None, Allotment(16, 1, 4, 0.5)),
        (GPU_HOST, Resources(workers=4, cpus_per_worker=2), 99, Allotment(2, 4, 2, 1.0)),
        (GPU_HOST, Resources(concurrent=1), 99, Allotment(1, 1, 16, 1.0)),
        ([Node(cpus=8), Node(cpus=16, gpus=2)], Resources(), 99, Allotment(2, 1, 8, 1.0)),
    ],
)
def test_what_is_left_open_is_filled(
    nodes: list[Node], wanted: Resources, most: int | None, expected: Allotment
) -> None:
    assert allot(nodes, wanted, most) == expected


@pytest.mark.parametrize(
    "wanted",
    [
        Resources(workers=3),
        Resources(gpus_per_worker=1),
        Resources(cpus_per_worker=3),
    ],
)
def test_an_impossible_demand_is_refused_with_the_figures(wanted: Resources) -> None:
    with pytest.raises(StudyError, match=r"does not fit: the nodes have 2 CPU\(s\) and 0 GPU\(s\)"):
        allot(LAPTOP, wanted)


def test_a_worker_does_not_spread_over_nodes() -> None:
    with pytest.raises(StudyError, match="does not fit"):
        allot([Node(cpus=2), Node(cpus=2)], Resources(cpus_per_worker=3))


def test_gpus_of_a_trial() -> None:
    assert Allotment(2, 4, 1, 0.5).gpus_per_trial == 2.0
