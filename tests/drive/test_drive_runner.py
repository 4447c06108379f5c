"""A study on a real Ray session, with a scripted trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_study
import pytest
import ray
from fake_study import (
    LR,
    MAX_ITER,
    PERIOD,
    FakeTraining,
    create_study,
    journal_operations,
    leave_reports,
    new_study,
    open_record,
    report,
    score,
    settings,
    space,
)
from patience import PATIENCE_S, wait_until

from raytune_m2f.config import Config
from raytune_m2f.drive.runner import enqueue_points, run_study
from raytune_m2f.errors import StudyError, TrainingError
from raytune_m2f.study import layout
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.settings import Budget, EarlyStopping, Resources
from raytune_m2f.study.status import StudyStatus, study_status

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.filterwarnings("ignore:::ray")]
ray.cloudpickle.register_pickle_by_value(fake_study)  # its folder is not on the workers' path

NO_STOPPING = EarlyStopping(method="none")
ITERATIONS = list(range(PERIOD, MAX_ITER + 1, PERIOD))


def states(status: StudyStatus) -> list[str]:
    return [trial.state for trial in status.trials]


def attempts(study: StudyDirectory, number: int) -> list[int]:
    """The iterations at which the processes of a trial began."""
    return [int(line.split()[0]) for line in (study.trial(number) / "starts").read_text().splitlines()]


def check_curves(study: StudyDirectory) -> None:
    """Every report of every trial is in the record once, with the value that the curve has there."""
    for trial in open_record(study).trials():
        steps = sorted(trial.intermediate_values)
        assert steps == ITERATIONS[: len(steps)]
        assert trial.intermediate_values == {i: pytest.approx(score(trial.params[LR], i)) for i in steps}
        assert trial.value == pytest.approx(score(trial.params[LR], steps[-1]))
    written = [(log["trial_id"], log["step"]) for log in journal_operations(study) if log["op_code"] == 7]
    assert len(written) == len(set(written))


def test_a_study_and_its_continuation(tmp_path: Path) -> None:
    """A killed driver has left trial 0 half-way, trial 1 at its end: one goes on, one is told, two are new."""
    study = new_study(tmp_path, settings(trials=4))
    record = open_record(study)
    enqueue_points(record)
    for steps in (ITERATIONS[:3], ITERATIONS):
        number = record.ask()
        lr = record.trial(number).params[LR]
        leave_reports(study.trial(number), {i: score(lr, i) for i in steps})
        record.absorb(number, report(PERIOD, score(lr, PERIOD)))
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    status = run_study(study.root, trial_function=FakeTraining())
    assert signal.getsignal(signal.SIGINT) is on_ctrl_c  # Tune's own would swallow the next Ctrl-C
    assert len(status.trials) == 4
    assert states(status)[:2] == ["complete", "complete"]
    assert attempts(study, 0) == [3 * PERIOD]  # from where it was
    assert not (study.trial(1) / "starts").exists()
    assert "the last words of the trial" in (study.trial(2) / "log.txt").read_text()
    check_curves(study)
    size = study.journal.stat().st_size
    assert run_study(study.root) == status  # nothing is left to do
    assert study.journal.stat().st_size == size


def test_failures_do_not_stop_the_others(tmp_path: Path) -> None:
    """NaN is no score and a process that dies is tried again."""
    study = new_study(tmp_path, settings(trials=2, early_stopping=NO_STOPPING))
    status = run_study(study.root, trial_function=FakeTraining(fault="nan", only="0000"))
    assert states(status) == ["failed", "complete"]
    assert status.trials[0].cause == "segm/AP is nan at iteration 30"
    assert status.best == 1


def test_a_process_that_dies_is_tried_again_from_where_it_was(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=1))
    status = run_study(study.root, trial_function=FakeTraining(fault="die"))
    assert states(status) == ["complete"]
    assert attempts(study, 0) == [0, 2 * PERIOD]
    check_curves(study)


def test_a_process_that_always_dies_is_a_failure_with_its_log(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=1, crash_retries=0))
    with pytest.raises(TrainingError, match="every trial failed") as caught:
        run_study(study.root, trial_function=FakeTraining(fault="die always"))
    message = str(caught.value)
    assert "TrialCrashed" in message
    assert "about to die" in message
    assert str(study.trial(0) / "log.txt") in message


def test_trials_that_all_fail_alike_stop_the_study_with_one_error(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9))
    with pytest.raises(TrainingError, match="the first 3 trials all failed with DatasetError") as caught:
        run_study(study.root, trial_function=FakeTraining(fault="dataset", at=PERIOD))
    assert "annotation 7 has label 9" in str(caught.value)
    assert 3 <= len(study_status(study.root).trials) <= 5


def test_a_time_limit_leaves_the_trials_to_go_on(tmp_path: Path) -> None:
    limit = Budget(trials=1, seconds=0.01)
    study = new_study(tmp_path, settings(budget=limit))
    status = run_study(study.root, trial_function=FakeTraining(seconds=0.5))
    assert states(status) == ["unfinished"]


def test_a_trial_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=1, resources=Resources(workers=3)))
    with pytest.raises(StudyError, match=r"needs 3 CPU\(s\), the cluster has 2"):
        run_study(study.root)


def test_gpu_hours_without_a_gpu_are_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(budget=Budget(gpu_hours=1), resources=Resources(gpus_per_worker=0)))
    with pytest.raises(StudyError, match="get no GPU"):
        run_study(study.root)


@pytest.mark.parametrize(
    "asked",
    [
        {"resources": Resources(workers=3)},
        {"resources": Resources(gpus_per_worker=1)},
        {"budget": Budget(gpu_hours=1), "resources": Resources(gpus_per_worker=0)},
    ],
)
def test_a_new_study_that_is_refused_leaves_nothing(tmp_path: Path, asked: dict[str, Any]) -> None:
    new = layout.new_study(tmp_path / "study", fake_study.config(), space(), settings(trials=1, **asked))
    with pytest.raises(StudyError, match=r"GPU|CPU"):
        run_study(new)
    assert list(tmp_path.iterdir()) == []


def test_a_new_study_is_laid_out_and_run(tmp_path: Path) -> None:
    new = layout.new_study(tmp_path / "study", fake_study.config(), space(), settings(trials=1))
    status = run_study(new, trial_function=FakeTraining())
    assert states(status) == ["complete"]
    assert (status.resumable, status.seconds_left) == (False, None)
    check_curves(new.directory)


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
import fake_study, ray
ray.cloudpickle.register_pickle_by_value(fake_study)
from raytune_m2f.drive.runner import enqueue_points, run_study
try:
    run_study(sys.argv[1], trial_function=fake_study.FakeTraining(seconds=0.3))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_driver(study: StudyDirectory) -> subprocess.Popen[str]:
    code = DRIVER.format(tests=str(Path(__file__).parents[1]))
    return subprocess.Popen([sys.executable, "-c", code, str(study.root)], stderr=subprocess.PIPE, text=True)


def written(study: StudyDirectory) -> int:
    return sum(path.read_text().count("\n") for path in study.trials.glob("*/metrics.jsonl"))


def wait_for_reports(study: StudyDirectory, count: int) -> None:
    wait_until(lambda: written(study) >= count, f"{count} reports")


@pytest.mark.slow
@pytest.mark.parametrize("reports", [3, 9])
def test_a_driver_killed_in_the_middle_loses_nothing(tmp_path: Path, reports: int) -> None:
    study = new_study(tmp_path, settings(trials=3, early_stopping=NO_STOPPING))
    driver = start_driver(study)
    wait_for_reports(study, reports)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    status = study_status(study.root)
    assert status.driver is None
    assert "unfinished" in states(status)
    status = run_study(study.root, trial_function=FakeTraining())
    assert states(status) == ["complete"] * 3
    check_curves(study)


@pytest.mark.slow
def test_ctrl_c_leaves_the_study_to_be_resumed(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=3, early_stopping=NO_STOPPING))
    driver = start_driver(study)
    wait_for_reports(study, 3)
    driver.send_signal(signal.SIGINT)
    _, errors = driver.communicate(timeout=PATIENCE_S)
    assert driver.returncode == 130, errors
    assert "Traceback" not in errors
    status = study_status(study.root)
    assert "unfinished" in states(status)
    assert "failed" not in states(status)
    assert states(run_study(study.root, trial_function=FakeTraining())) == ["complete"] * 3
    check_curves(study)


@pytest.mark.slow
def test_trials_of_two_workers_run_one_after_the_other_and_leave_nothing(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=2, resources=Resources(workers=2)))
    status = run_study(study.root, trial_function=FakeTraining())
    assert set(states(status)) <= {"complete", "stopped"}
    check_curves(study)
    assert not list(study.trials.glob("*/.placement_group"))
    assert ray.available_resources()["CPU"] == 2.0
    assert os.path.exists(study.trial(0) / "log_1.txt")


@pytest.mark.slow
def test_the_real_training_leaves_the_same_record_by_one_worker_as_by_two(tmp_path: Path, tiny_config: Config) -> None:
    values = []
    # Adam's first steps are the sign of the gradient: at a high rate they amplify float noise where it is nearly 0
    config = tiny_config.with_values({LR: 1e-5})
    for workers in (1, 2):
        asked = settings(trials=1, resources=Resources(workers=workers, cpus_per_worker=1))
        study = create_study(tmp_path / str(workers), config, space(), asked)
        trial = run_study(study.root).trials[0]
        assert (trial.state, trial.iteration, trial.origin) == ("complete", 4, "config")
        assert "segm/AP" in (study.trial(0) / "log.txt").read_text()
        values.append(open_record(study).trial(0).user_attrs["last"])
    assert [value["workers"] for value in values] == [1, 2]
    assert values[1]["loss"] == pytest.approx(values[0]["loss"], rel=1e-4)
