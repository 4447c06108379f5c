"""Nodes that are lost, announced to go, and come, in the middle of a study: several Ray nodes on this machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import PERIOD, new_study, open_record, settings
from fault_study import check_curves, states

from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.settings import EarlyStopping, Resources
from raytune_m2f.study.status import study_status

# In a process of its own, for a process can only be connected to one cluster. The driver stays on the first node;
# `{happens}` is what becomes of the second.
ON_TWO_NODES = """
import contextlib, os, socket, sys, threading, time, warnings
sys.path[:0] = {paths!r}
warnings.simplefilter("ignore")
from raytune_m2f.launch.session import ENVIRONMENT
os.environ.update(ENVIRONMENT)
import ray
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.util.placement_group import placement_group_table
import fake_study, fault_study
from raytune_m2f.launch.groups import noted_group
from raytune_m2f.drive.runner import run_study
from raytune_m2f.study.directory import StudyDirectory

def free_port():
    with socket.socket() as found:
        found.bind(("", 0))
        return found.getsockname()[1]

def wait_for_reports(*numbers):
    fault_study.wait_until(lambda: all(fault_study.reports_of(study, n) >= 2 for n in numbers), "reports")

def announce(seconds):
    reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    deadline = int((time.time() + seconds) * 1000)
    ray._raylet.GcsClient(address=cluster.address).drain_node(second.node_id, reason, "spot", deadline)

def trains_on_second(number):
    group = placement_group_table().get(noted_group(study.trial(number)), {{"bundles_to_node_id": {{}}}})
    return second.node_id in group["bundles_to_node_id"].values() and 2 <= fault_study.reports_of(study, number) < 6

def held():
    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]

ray.cloudpickle.register_pickle_by_value(fake_study)
study = StudyDirectory.at(sys.argv[1])
room = {{"num_cpus": {cpus}, "object_store_memory": 80 * 2**20}}
soon = {{"health_check_period_ms": 1000, "health_check_failure_threshold": 10}}  # how fast a lost node is seen
first = {{**room, "include_dashboard": False, "gcs_server_port": free_port(), "_system_config": soon}}
cluster = Cluster(initialize_head=True, head_node_args=first)
second = cluster.add_node(**room)

def happens():
{happens}

ray.init(address=cluster.address, log_to_driver=False)
over = threading.Event()
thread = threading.Thread(target=happens)
thread.start()
try:
    run_study(study.root, address=cluster.address, trial_function=fake_study.FakeTraining(seconds={seconds}))
    fault_study.wait_until(lambda: not held(), "the placement groups to be freed")
    free = lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"]
    fault_study.wait_until(free, "the CPUs to be free")
    running = lambda: [process for process in fault_study.processes(study) if fault_study.is_alive(process)]
    fault_study.wait_until(lambda: not running(), "the processes to end")
finally:
    over.set()
    thread.join()
    ray.shutdown()
    cluster.shutdown()
"""


def run_on_two_nodes(study: StudyDirectory, happens: str, *, cpus: int, seconds: float) -> None:
    """Run a study of scripted trials to its end, and see that nothing of it is left in the cluster.

    Args:
        happens: lines of Python, run on a thread.
        cpus: of each node.
        seconds: between two reports of a trial.
    """
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    lines = "\n".join(f"    {line}" for line in happens.strip().splitlines())
    code = ON_TWO_NODES.format(paths=paths, cpus=cpus, happens=lines, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", code, str(study.root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def starts(study: StudyDirectory) -> list[list[int]]:
    """Of each trial, the iterations at which its processes began."""
    files = sorted(study.trials.glob("*/starts"))
    return [[int(line.split()[0]) for line in file.read_text().splitlines()] for file in files]


@pytest.mark.slow
def test_a_trial_whose_node_is_lost_goes_on_on_another_and_has_not_failed(tmp_path: Path) -> None:
    one = Resources(cpus_per_worker=1)
    asked = settings(trials=2, early_stopping=EarlyStopping(method="none"), resources=one, crash_retries=0)
    study = new_study(tmp_path, asked)
    loses = """
wait_for_reports(0, 1)
cluster.remove_node(second, allow_graceful=False)
"""
    run_on_two_nodes(study, loses, cpus=1, seconds=1.5)
    assert states(study_status(study.root)) == ["complete"] * 2
    stayed, moved = sorted(starts(study), key=len)
    assert stayed == [0]
    assert len(moved) == 2
    assert moved[1] >= 2 * PERIOD  # from where it was
    losses = [trial.user_attrs.get("node_losses") for trial in open_record(study).trials()]
    assert sorted(losses, key=bool) == [None, 1]
    check_curves(study)


@pytest.mark.slow
def test_trials_of_two_workers_survive_a_node_that_is_killed(tmp_path: Path) -> None:
    two = Resources(workers=2, cpus_per_worker=1)
    asked = settings(trials=3, early_stopping=EarlyStopping(method="none"), resources=two, crash_retries=0)
    study = new_study(tmp_path, asked)
    loses = """
fault_study.wait_until(lambda: any(map(trains_on_second, range(3))), "a trial on the second node")
cluster.remove_node(second, allow_graceful=False)
"""
    run_on_two_nodes(study, loses, cpus=2, seconds=2.0)
    assert states(study_status(study.root)) == ["complete"] * 3
    [moved] = [found for found in starts(study) if len(found) > 2]
    assert moved[:2] == [0, 0]
    assert moved[2] == moved[3] >= 2 * PERIOD
    check_curves(study)


@pytest.mark.slow
def test_a_node_that_is_announced_to_go_is_used_to_save_and_a_new_one_is_taken(tmp_path: Path) -> None:
    """One trial of two workers, each on a node of its own."""
    asked = settings(trials=1, resources=Resources(workers=2, cpus_per_worker=1), crash_retries=0)
    study = new_study(tmp_path, asked)
    goes = """
wait_for_reports(0)
announce(10)
fault_study.wait_until((study.trial(0) / "saved").exists, "the checkpoint")
time.sleep(10)
with contextlib.suppress(Exception):  # once nothing runs there, it goes by itself
    cluster.remove_node(second, allow_graceful=False)
ray._private.utils.set_sigterm_handler = lambda handler: None  # only the main thread may set one
cluster.add_node(**room)
over.wait()  # a node dies with the thread that started it
"""
    run_on_two_nodes(study, goes, cpus=1, seconds=3.0)
    assert states(study_status(study.root)) == ["complete"]
    assert "announced to go: a checkpoint is written now" in (study.trial(0) / "log.txt").read_text()
    [[*first, third, fourth]] = starts(study)
    assert first == [0, 0]
    assert third == fourth >= 2 * PERIOD
    check_curves(study)


@pytest.mark.slow
def test_an_elastic_trial_goes_on_with_the_workers_that_are_left(tmp_path: Path) -> None:
    asked = settings(trials=1, resources=Resources(workers="1:2", cpus_per_worker=1), crash_retries=0)
    study = new_study(tmp_path, asked)
    loses = """
wait_for_reports(0)
cluster.remove_node(second, allow_graceful=False)
"""
    run_on_two_nodes(study, loses, cpus=1, seconds=2.0)
    assert states(study_status(study.root)) == ["complete"]
    worlds = [line.split()[2] for line in (study.trial(0) / "starts").read_text().splitlines()]
    assert worlds == ["2", "2", "1"]
    check_curves(study)
