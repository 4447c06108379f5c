"""A trial's own process is killed, and its workers are left behind: they are freed while others train, and counted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import fake_study
import pytest
import ray
from fake_study import FakeTraining, new_study, settings
from fault_study import is_alive, processes, reports_of, states
from patience import wait_until
from ray.util.placement_group import placement_group_table

from raytune_m2f.drive.runner import run_study
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.settings import EarlyStopping, Resources
from raytune_m2f.study.status import study_status

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.filterwarnings("ignore:::ray"), pytest.mark.slow]
ray.cloudpickle.register_pickle_by_value(fake_study)  # its folder is not on the workers' path


def groups_of_workers() -> list[str]:
    """The placement groups that Ray Train holds: of two bundles, where Tune's are of one."""
    table = placement_group_table()
    return [group for group, found in table.items() if found["state"] != "REMOVED" and len(found["bundles"]) == 2]


def trial_processes() -> list[int]:
    """The processes that Ray Tune has started for trials, in this session."""
    actors = ray._private.state.actors().values()
    return [actor["Pid"] for actor in actors if actor["State"] == "ALIVE" and "ImplicitFunc" in actor["ActorClassName"]]


def has_reports(study: StudyDirectory) -> bool:
    return reports_of(study, 0) >= 2


def has_a_group(study: StudyDirectory) -> bool:
    return bool(groups_of_workers())


@pytest.mark.parametrize("is_time", [has_reports, has_a_group], ids=["while it trains", "while its workers start"])
def test_what_a_killed_trial_leaves_is_freed(tmp_path: Path, is_time: Callable[[StudyDirectory], bool]) -> None:
    two = Resources(workers=2, cpus_per_worker=1)
    asked = settings(trials=2, early_stopping=EarlyStopping(method="none"), resources=two, crash_retries=0)
    study = new_study(tmp_path, asked)

    def kill() -> None:
        wait_until(lambda: is_time(study), "the instant")
        left, workers = groups_of_workers(), processes(study)
        for process in trial_processes():
            os.kill(process, signal.SIGKILL)
        wait_until(lambda: not set(left) & set(groups_of_workers()), "the group to be freed")
        wait_until(lambda: not any(map(is_alive, workers)), "the workers to end")

    killer = threading.Thread(target=kill)
    killer.start()
    run_study(study.root, trial_function=FakeTraining(seconds=0.3))
    killer.join()
    status = study_status(study.root)
    assert states(status) == ["failed", "complete"]
    assert status.leaks_freed == 1
    assert groups_of_workers() == []
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0, "the CPUs to be free")
