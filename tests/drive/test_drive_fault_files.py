"""What happens to the files of a study: a full disk, checkpoints that are cut short or hold garbage.

A disk is full for real: a small file system of its own, for which the tests must be allowed to mount (root on Linux).
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_study
import fault_study
import pytest
import ray
import torch
from fake_study import FakeTraining, config, new_study, open_record, report, settings, space
from fault_study import NoRoom, check_curves, end_of, fill, start_driver, states, wait_for_reports

from raytune_m2f.config import Config
from raytune_m2f.drive.runner import create_study, enqueue_points, run_study
from raytune_m2f.errors import CheckpointError, RaytuneM2FError
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.trial import run_trial
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.study.status import study_status
from raytune_m2f.training import checkpoint
from raytune_m2f.training import reports as metrics
from raytune_m2f.training.reports import SEGM_AP, Report, TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

pytestmark = pytest.mark.filterwarnings("ignore:::ray")
for module in (fake_study, fault_study):
    ray.cloudpickle.register_pickle_by_value(module)  # their folder is not on the workers' path

NO_STOPPING = EarlyStopping(method="none")
NO_ROOM = "the study's record could not be written: [Errno 28] No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of the size given, e.g. `1m`."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system cannot be mounted here")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)


class FillsUp:
    """Hears the reports of a trial, and fills the disk at one of them."""

    def __init__(self, disk: Path, at: int) -> None:
        self._disk, self._at = disk, at

    def __call__(self, report: Report) -> bool:
        if report["iteration"] == self._at:
            fill(self._disk)
        return False


def curve(folder: Path) -> list[tuple[int, float]]:
    return [(report["iteration"], report["loss"]) for report in read_reports(folder)]


@pytest.fixture(scope="module")
def unbroken(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float]]:
    """The curve of a trial to which nothing happens, evaluated at each iteration."""
    output = tmp_path_factory.mktemp("unbroken")
    train_trial(each_iteration(tiny_config), TrialContext(output))
    return curve(output)


def each_iteration(config: Config) -> Config:
    return config.with_values({"SOLVER.MAX_ITER": 6, "TEST.EVAL_PERIOD": 1}, source="test")


# A full disk


def test_a_checkpoint_that_does_not_fit_is_one_error_and_the_trial_goes_on_when_it_does(
    tmp_path: Path, disk: Callable[[str], Path], tiny_config: Config, unbroken: list[tuple[int, float]]
) -> None:
    output = disk("600m") / "0000"
    trained = each_iteration(tiny_config)
    with pytest.raises(CheckpointError, match=r"cannot write the checkpoint .*Free space there"):
        train_trial(trained, TrialContext(output, report=FillsUp(output.parent, at=3)))
    assert not list(output.glob("checkpoints/.*"))
    (output.parent / "filler").unlink()
    train_trial(trained, TrialContext(output))
    assert curve(output) == unbroken


def test_reports_that_do_not_fit_are_made_again_when_they_do(
    tmp_path: Path, disk: Callable[[str], Path], tiny_config: Config, unbroken: list[tuple[int, float]]
) -> None:
    """The checkpoints lie elsewhere, so that metrics.jsonl is what meets the end of the disk."""
    output = disk("1m") / "0000"
    output.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (output / "checkpoints").symlink_to(tmp_path / "elsewhere")
    trained = each_iteration(tiny_config)
    with pytest.raises((RaytuneM2FError, OSError), match="No space left"):
        train_trial(trained, TrialContext(output, report=FillsUp(output.parent, at=1)))
    assert 0 < len(read_reports(output)) < 6
    (output.parent / "filler").unlink()
    train_trial(trained, TrialContext(output))
    assert curve(output) == unbroken


def test_a_report_that_does_not_fit_is_an_error_of_ours(disk: Callable[[str], Path]) -> None:
    folder = disk("64k")
    fill(folder)
    with pytest.raises(RaytuneM2FError, match="No space left"):
        metrics.append_report(folder, report(10, 1.0))


@pytest.mark.slow
def test_a_full_disk_ends_the_study_with_one_error_and_it_goes_on_when_there_is_room(
    disk: Callable[[str], Path],
) -> None:
    """Everything lies on it: the journal, the reports, the logs, Ray's own files."""
    root = disk("1m")
    study = new_study(root, settings(trials=2, early_stopping=NO_STOPPING))
    driver = start_driver(study)
    wait_for_reports(study, 3)
    filler = fill(root)
    said = end_of(driver)
    assert driver.returncode == 1, said
    assert said.count("error: ") == 1
    assert NO_ROOM in said
    assert f"raytune-m2f resume {study.root}" in said
    assert set(states(study_status(study.root))) == {"unfinished"}
    filler.unlink()
    driver = start_driver(study)
    said = end_of(driver)
    assert driver.returncode == 0, said
    assert states(study_status(study.root)) == ["complete"] * 2
    check_curves(study)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_trials_whose_checkpoints_did_not_fit_go_on_when_they_do(tmp_path: Path) -> None:
    (tmp_path / "full").touch()
    study = new_study(tmp_path, settings(trials=2, early_stopping=NO_STOPPING))
    training = NoRoom(str(tmp_path / "full"))
    with pytest.raises(RaytuneM2FError, match="cannot write the checkpoint"):
        run_study(study.root, trial_function=training)
    (tmp_path / "full").unlink()
    run_study(study.root, trial_function=training)
    assert states(study_status(study.root)) == ["complete"] * 2


# Broken checkpoints


def garbage(whole: bytes) -> bytes:
    return bytes((7 * i + 3) % 251 for i in range(len(whole)))


def test_of_a_checkpoint_cut_at_any_length_the_one_before_is_used(tmp_path: Path) -> None:
    for iteration in (2, 4):
        checkpoint.save_iteration({"model": {"weight": torch.arange(50.0)}, "iteration": iteration}, tmp_path)
    newest = tmp_path / "iter_0000004.pth"
    whole = newest.read_bytes()
    broken = [whole[:length] for length in range(0, len(whole), 5)] + [whole[:-1], garbage(whole)]
    for content in broken:
        newest.write_bytes(content)
        state = checkpoint.load_newest(tmp_path)
        assert state is not None
        assert state["iteration"] == 2, f"{len(content)} of {len(whole)} bytes"


def test_of_a_checkpoint_with_a_changed_byte_the_one_before_is_used(tmp_path: Path) -> None:
    for iteration in (2, 4):
        checkpoint.save_iteration({"model": {"weight": torch.arange(50.0)}, "iteration": iteration}, tmp_path)
    newest = tmp_path / "iter_0000004.pth"
    whole = bytearray(newest.read_bytes())
    whole[whole.index(torch.tensor([7.0, 8.0, 9.0]).numpy().tobytes())] ^= 0xFF
    newest.write_bytes(whole)
    state = checkpoint.load_newest(tmp_path)
    assert state is not None
    assert state["iteration"] == 2


@pytest.mark.parametrize("broken", [1, 2])
def test_a_training_goes_on_from_what_can_be_read_and_ends_the_same(
    tmp_path: Path, tiny_config: Config, unbroken: list[tuple[int, float]], broken: int
) -> None:
    """Of the two checkpoints that are kept the newest is cut, or both are: then it starts again."""
    trained = each_iteration(tiny_config)
    train_trial(trained, TrialContext(tmp_path, report=lambda report: bool(report["iteration"] == 4)))
    for number, path in enumerate(checkpoint.newest_first(tmp_path / "checkpoints")[:broken]):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] if number else garbage(content[:5000]))
    train_trial(trained, TrialContext(tmp_path))
    assert curve(tmp_path) == unbroken


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_study_whose_trial_lost_its_newest_checkpoint_has_each_report_once(
    tmp_path: Path, tiny_config: Config
) -> None:
    study = create_study(tmp_path / "study", each_iteration(tiny_config), space(), settings(trials=1))
    record = open_record(study)
    enqueue_points(record)
    number = record.ask()

    def told(report: Report) -> bool:
        record.absorb(number, report)
        return bool(report["iteration"] == 4)

    train_trial(each_iteration(tiny_config), TrialContext(study.trial(number), report=told))
    newest = checkpoint.newest_first(study.trial(number) / "checkpoints")[0]
    newest.write_bytes(newest.read_bytes()[:100])
    assert states(run_study(study.root)) == ["complete"]
    assert "trying the one before" in (study.trial(number) / "log.txt").read_text()
    told_values = open_record(study).trial(number).intermediate_values
    written = {report["iteration"]: report["segm/AP"] for report in read_reports(study.trial(number))}
    assert told_values == pytest.approx(written, abs=0.5)  # the threads differ
    assert sorted(written) == [1, 2, 3, 4, 5, 6]


# The log


@pytest.mark.usefixtures("ray_cluster")
def test_an_error_that_is_not_ours_has_its_trace_in_the_log(tmp_path: Path) -> None:
    job = TrialJob(config(), (SEGM_AP,), function=FakeTraining(fault="bug", at=10))
    run_trial(job, Place.at(tmp_path / "0000"), 0, {})
    assert "KeyError: 'no such thing'" in (tmp_path / "0000" / "log.txt").read_text()
