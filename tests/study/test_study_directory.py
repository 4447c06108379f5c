from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_study import config, create_study, new_study, open_record, settings, space
from pydantic import ValidationError

from raytune_m2f import Study
from raytune_m2f.drive.runner import run_study
from raytune_m2f.errors import StudyError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, Usage
from raytune_m2f.study.status import study_status


def test_the_plan_survives_the_file(tmp_path: Path) -> None:
    asked = settings(
        budget=Budget(trials=3, seconds=60.0),
        seed=7,
        early_stopping=EarlyStopping(grace_iterations=20, reduction_factor=2),
        resources=Resources(workers=2),
    )
    study = new_study(tmp_path, asked)
    plan = StudyPlan.load(study.plan_file)
    assert plan.settings == asked
    assert plan.config == config()
    assert plan.space.distributions == space().distributions


def test_a_second_study_in_the_directory_is_refused(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    open_record(study).ask()
    with pytest.raises(StudyError, match="is a study already"):
        create_study(study.root, config(), space(), settings())


def test_a_directory_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(StudyError, match="not empty and no study"):
        create_study(tmp_path, config(), space(), settings())


def test_what_is_no_study_is_named(tmp_path: Path) -> None:
    for action in (run_study, study_status, Study):
        with pytest.raises(StudyError, match="is no study directory"):
            action(tmp_path)


def test_a_broken_plan_is_named(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    study.plan_file.write_text("settings: {budget: {trials: many}}\n")
    with pytest.raises(StudyError, match=r"study\.yaml cannot be read"):
        StudyPlan.load(study.plan_file)


def test_a_study_that_never_ran_has_no_status(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="has no trials yet"):
        study_status(new_study(tmp_path).root)


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    with study.locked(), pytest.raises(StudyError, match=f"another driver \\(process {os.getpid()} on "):
        run_study(study.root)
    assert study.driver() is None


def test_the_lock_dies_with_its_holder(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    script = (
        "import sys\nfrom raytune_m2f.study.directory import StudyDirectory\n"
        "with StudyDirectory.at(sys.argv[1]).locked():\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(study.root)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "locked\n"
        assert f"process {holder.pid} on" in (study.driver() or "")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert study.driver() is None
    with study.locked():
        assert str(os.getpid()) in (study.root / "study.lock").read_text()


def test_a_budget_needs_a_limit_and_positive_ones() -> None:
    with pytest.raises(ValidationError, match="at least one limit"):
        Budget()
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Budget(trials=0)


@pytest.mark.parametrize(
    ("budget", "usage", "new", "spent"),
    [
        (Budget(trials=2), Usage(trials=1), True, False),
        (Budget(trials=2), Usage(trials=2), False, False),  # the running ones may finish
        (Budget(iterations=100), Usage(trials=50, iterations=99), True, False),
        (Budget(iterations=100), Usage(iterations=100), False, True),
        (Budget(trials=2, seconds=60), Usage(trials=1, seconds=60), False, True),
        (Budget(gpu_hours=1.5), Usage(gpu_hours=1.6), False, True),
    ],
)
def test_budgets(budget: Budget, usage: Usage, new: bool, spent: bool) -> None:
    assert budget.allows_new_trial(usage) is new
    assert (budget.spent(usage) is not None) is spent


def test_a_directory_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert StudyDirectory.at("s").trial(7) == tmp_path / "s" / "trials" / "0007"


def test_a_first_rung_after_the_end_is_refused(tmp_path: Path) -> None:
    late = settings(early_stopping=EarlyStopping(grace_iterations=80))
    with pytest.raises(StudyError, match=r"--grace 80: the trainings end at SOLVER.MAX_ITER = 80"):
        new_study(tmp_path, late)
    new_study(tmp_path, settings(early_stopping=EarlyStopping(method="none", grace_iterations=80)))
