"""Killed, interrupted, locked out, broken: each fault of the table in docs/tuning.md, by real processes and signals."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fake_study
import fault_study
import pytest
import ray
from fake_study import FakeTraining, create_study, leave_reports, new_study, open_record, report, settings, space
from fault_study import (
    FaultyTraining,
    Traced,
    check_curves,
    end_of,
    is_alive,
    is_driven,
    processes,
    reports,
    start_driver,
    states,
    wait_for_reports,
)
from optuna.trial import TrialState
from patience import PATIENCE_S, wait_until
from typer.testing import CliRunner

from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.drive.runner import run_study
from raytune_m2f.errors import DatasetError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping, Resources
from raytune_m2f.study.status import study_status
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.trial_dir import write_failure
from raytune_m2f.training.worker import train_trial

pytestmark = pytest.mark.filterwarnings("ignore:::ray")
for module in (fake_study, fault_study):
    ray.cloudpickle.register_pickle_by_value(module)  # their folder is not on the workers' path

NO_STOPPING = EarlyStopping(method="none")


@contextmanager
def killing(study: StudyDirectory, rank: int, after: int) -> Iterator[None]:
    """SIGKILL the process of this rank of trial 0 once there are so many reports."""

    def kill() -> None:
        wait_for_reports(study, after)
        os.kill(int((study.trial(0) / f"pid_{rank}").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()


# A worker is killed


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_whose_process_is_killed_ends_as_if_it_had_not_been(tmp_path: Path, tiny_config: Config) -> None:
    config = tiny_config.with_values({"SOLVER.MAX_ITER": 12, "TEST.EVAL_PERIOD": 4}, source="test")
    asked = settings(trials=1, resources=Resources(cpus_per_worker=1))
    study = create_study(tmp_path / "study", config, space(), asked)
    with killing(study, rank=0, after=2):
        status = run_study(study.root, trial_function=Traced())
    assert states(status) == ["complete"]
    assert "going on from iteration" in (study.trial(0) / "log.txt").read_text()
    train_trial(config, TrialContext(tmp_path / "unbroken"))
    for broken, unbroken in zip(read_reports(study.trial(0)), read_reports(tmp_path / "unbroken"), strict=True):
        assert broken["iteration"] == unbroken["iteration"]
        assert broken["loss"] == pytest.approx(unbroken["loss"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_one_of_two_workers_is_killed_and_both_start_again(tmp_path: Path) -> None:
    """The one that reports; that the other dies is tested in test_launch_ray.py."""
    study = new_study(tmp_path, settings(trials=1, resources=Resources(workers=2)))
    with killing(study, rank=0, after=2):
        status = run_study(study.root, trial_function=Traced(FakeTraining(seconds=0.3)))
    assert states(status) == ["complete"]
    assert len(processes(study)) == 4
    assert not any(is_alive(process) for process in processes(study))
    check_curves(study)


# The driver is killed


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_driver_killed_twice_loses_nothing_and_leaves_no_process(tmp_path: Path) -> None:
    """Once as soon as it holds the study, once in the middle; nobody cleans up in between."""
    study = new_study(tmp_path, settings(trials=2, early_stopping=NO_STOPPING))
    for enough in (lambda: is_driven(study), lambda: reports(study) >= 5):
        driver = start_driver(study)
        wait_until(enough, "the driver")
        driver.send_signal(signal.SIGKILL)
        end_of(driver)
    before = reports(study)
    status = run_study(study.root, trial_function=FakeTraining())
    assert states(status) == ["complete"] * 2
    assert before >= 5
    check_curves(study)
    wait_until(lambda: not any(map(is_alive, processes(study))), "the trials' processes to end")


@pytest.mark.parametrize("every_byte", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_journal_cut_at_any_byte_of_its_last_lines_loses_nothing(tmp_path: Path, every_byte: bool) -> None:
    """One trial of each kind; what the record cannot say any more is in the trials' directories."""
    study = new_study(tmp_path, settings(trials=4))
    plan = StudyPlan.load(study.plan_file)
    leave_ended_trials(Record(study, plan))
    whole = study.journal.read_bytes()
    expected = resumed(Record(study, plan))
    assert [state for state, *_ in expected] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    lines = whole.splitlines(keepends=True)
    cuts: Iterable[int] = range(len(whole) - len(b"".join(lines[-5:])), len(whole))
    if not every_byte:  # around the end of each line, and in its middle
        ends = [len(b"".join(lines[:count])) for count in range(len(lines) - 12, len(lines) + 1)]
        cuts = sorted({end + shift for end in ends for shift in (-70, -1, 0, 1)} & set(range(len(whole))))
    for cut in cuts:
        study.journal.write_bytes(whole[:cut])
        assert resumed(Record(study, plan)) == expected, f"cut at byte {cut}"


def leave_ended_trials(record: Record) -> None:
    """One that came to its end, one that was stopped early, one that failed."""
    for values in (range(8), (0, 0, -1), ()):
        number = record.ask()
        output_dir = record.directory.trial(number)
        output_dir.mkdir()
        for step, value in enumerate(values, start=1):
            leave_reports(output_dir, {10 * step: float(value)})
            if record.absorb(number, report(10 * step, float(value))):
                break
        if not values:
            write_failure(output_dir, DatasetError("annotation 7 has label 9"))
        record.settle(number, ended=True)


def resumed(record: Record) -> list[tuple[object, ...]]:
    """The trials once a driver has gone on, and asked for what the budget still allows."""
    record.reconcile()
    while record.plan.settings.budget.allows_new_trial(record.usage()):
        record.ask()
        record.reconcile()  # one that was lost has its directory: what came after it was asked once it had ended
    return [(trial.state.name, trial.params, trial.values, trial.intermediate_values) for trial in record.trials()]


def test_a_kill_while_the_study_is_laid_out_does_not_block_its_directory(tmp_path: Path) -> None:
    (tmp_path / "study" / "trials").mkdir(parents=True)
    (tmp_path / "study" / ".study.yaml.4711.tmp").write_text("settings: {bud")
    assert new_study(tmp_path).plan_file.exists()


# Somebody presses Ctrl-C


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_ctrl_c_once_or_twice_ends_the_command_with_130_and_the_study_goes_on_later(tmp_path: Path) -> None:
    """As a terminal does it: every process of the foreground group gets the signal."""
    study = new_study(tmp_path, settings(trials=3, early_stopping=NO_STOPPING))
    for times in (1, 2):
        driver = start_driver(study)
        wait_for_reports(study, reports(study) + 3)
        for _ in range(times):
            os.killpg(driver.pid, signal.SIGINT)
        said = end_of(driver)
        assert driver.returncode == 130, said
        assert "interrupted" in said
        assert "Traceback" not in said
        status = study_status(study.root)
        assert status.driver is None
        assert set(states(status)) <= {"complete", "unfinished", "waiting"}
    assert states(run_study(study.root, trial_function=FakeTraining())) == ["complete"] * 3
    check_curves(study)


# Two drivers


@pytest.mark.slow
def test_a_second_driver_is_refused_by_name_and_a_killed_one_is_in_nobodys_way(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    open_record(study).ask()
    code = (
        "import sys, time\nfrom raytune_m2f.study.directory import StudyDirectory\n"
        f"with StudyDirectory.at(sys.argv[1]).locked():\n    time.sleep({PATIENCE_S})\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(study.root)])
    atexit.register(holder.kill)  # if the test fails before it does
    wait_until(lambda: is_driven(study), "the lock")
    refused = CliRunner().invoke(app, ["resume", str(study.root)])
    assert refused.exit_code == 2
    assert f"process {holder.pid} on" in refused.stderr
    assert refused.stdout == ""
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with study.locked():
        assert f"process {os.getpid()} on" in (study_status(study.root).driver or "")


def test_a_lock_file_that_another_machine_left_is_in_nobodys_way(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    open_record(study).ask()
    (study.root / "study.lock").write_text("process 1 on another-machine since 2026-01-01T00:00:00+00:00")
    assert study_status(study.root).driver is None
    with study.locked():
        assert f"process {os.getpid()} on" in (study_status(study.root).driver or "")


# The training itself fails


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_nan_loss_and_a_broken_evaluator_fail_with_their_cause_and_the_others_go_on(
    tmp_path: Path, tiny_config: Config
) -> None:
    study = create_study(tmp_path / "study", tiny_config, space(), settings(trials=3, early_stopping=NO_STOPPING))
    status = run_study(study.root, trial_function=FaultyTraining(rate="0001", evaluator="0000"))
    assert states(status) == ["failed", "failed", "complete"]
    broken, diverged, whole = status.trials
    assert broken.cause == "an evaluator's own mistake"
    failure = json.loads((study.trial(0) / "failure.json").read_text())
    assert failure["error_type"] == "IndexError"
    assert "in evaluate" in failure["traceback"]
    assert "BASE_LR = 10" in (diverged.cause or "")
    assert diverged.best is None
    assert (status.best, whole.iteration) == (2, 4)
    assert [trial.value for trial in open_record(study).trials(TrialState.FAIL)] == [None, None]
