"""A node of the cluster is lost in the middle of a study: two Ray nodes on this machine, one of them removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import PERIOD, new_study, settings
from fault_study import check_curves, states

from raytune_m2f.tuning.settings import EarlyStopping, Resources
from raytune_m2f.tuning.status import study_status

# In a process of its own, for a process can only be connected to one cluster. Each node has room for one trial; the
# driver stays on the first.
LOSES_A_NODE = """
import os, sys, threading, warnings
sys.path[:0] = {paths!r}
warnings.simplefilter("ignore")
from raytune_m2f.training.ray_session import ENVIRONMENT
os.environ.update(ENVIRONMENT)
import ray
from ray.cluster_utils import Cluster
import fake_study, fault_study
from raytune_m2f.tuning import run_study, StudyDirectory

ray.cloudpickle.register_pickle_by_value(fake_study)
study = StudyDirectory.at(sys.argv[1])
room = {{"num_cpus": 1, "object_store_memory": 80 * 2**20}}
cluster = Cluster(initialize_head=True, head_node_args={{**room, "include_dashboard": False}})
lost = cluster.add_node(**room)

def lose():
    fault_study.wait_until(lambda: all(fault_study.reports_of(study, number) >= 2 for number in (0, 1)), "reports")
    cluster.remove_node(lost, allow_graceful=False)

thread = threading.Thread(target=lose)
thread.start()
try:
    run_study(study.root, address=cluster.address, trial_function=fake_study.FakeTraining(seconds=0.5))
finally:
    thread.join()
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_trial_whose_node_is_lost_goes_on_on_another(tmp_path: Path) -> None:
    asked = settings(trials=2, early_stopping=EarlyStopping(method="none"), resources=Resources(cpus_per_worker=1))
    study = new_study(tmp_path, asked)
    code = LOSES_A_NODE.format(paths=[str(Path(__file__).parent), str(Path(__file__).parents[1])])
    done = subprocess.run([sys.executable, "-c", code, str(study.root)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert states(study_status(study.root)) == ["complete"] * 2
    starts = [
        [int(line.split()[0]) for line in file.read_text().splitlines()] for file in study.trials.glob("*/starts")
    ]
    stayed, moved = sorted(starts, key=len)
    assert stayed == [0]
    assert len(moved) == 2
    assert moved[1] >= 2 * PERIOD  # from where it was
    check_curves(study)
