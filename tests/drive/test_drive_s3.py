"""Studies on an S3 server that runs on this machine: the commands, a server that goes away, a driver that is killed."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_study
import pytest
import ray
from fake_study import LR, MAX_ITER, PERIOD, FakeTraining, config, create_study, open_record, score, settings, space
from fault_study import end_of, states
from patience import PATIENCE_S, wait_until
from s3_server import BUCKET, S3Server, s3_server
from typer.testing import CliRunner, Result

from raytune_m2f.cli.main import app
from raytune_m2f.config import Config
from raytune_m2f.drive.runner import run_study
from raytune_m2f.errors import CheckpointError
from raytune_m2f.storage import object_store
from raytune_m2f.storage.folder import Folder
from raytune_m2f.storage.object_store import ObjectStore
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.settings import EarlyStopping, Resources
from raytune_m2f.study.status import study_status
from raytune_m2f.training.checkpoint import Checkpoint, CheckpointWriter

pytestmark = pytest.mark.filterwarnings("ignore:::ray")
ray.cloudpickle.register_pickle_by_value(fake_study)  # its folder is not on the workers' path
NO_STOPPING = EarlyStopping(method="none")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


def command(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


# Files


def test_files_go_there_and_back(server: S3Server) -> None:
    there, store = Folder.at(server.address("files")), ObjectStore.at(server.address("files"))
    (there.path / "checkpoints").mkdir()
    (there.path / "checkpoints" / "best.pth").write_bytes(bytes(range(256)) * 2**16)  # in several parts
    (there.path / "empty").touch()
    there.sync()
    there.sync("checkpoints")
    back = Folder.at(server.address("files"))
    assert back.names(recursive=True) == ["checkpoints/best.pth", "empty"]
    back.pull(*back.names(recursive=True))
    assert (back.path / "checkpoints/best.pth").read_bytes() == bytes(range(256)) * 2**16
    back.link("empty", "another")
    back.delete("checkpoints/best.pth", "nothing")
    assert there.names(recursive=True) == ["another", "empty"]
    assert store.modified("another") == pytest.approx(store.modified("empty"), abs=PATIENCE_S)
    assert store.modified("nothing") is None
    assert store.read("nothing") is None


def test_the_servers_address_may_be_in_the_environment(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    ObjectStore.at(f"s3://{BUCKET}/named").write("a", "1")
    assert ObjectStore.at(server.address("named")).read("a") == "1"


def test_checkpoints_go_there_before_older_ones_are_deleted(server: S3Server) -> None:
    there = Folder.at(server.address("writer"))
    saved = functools.partial(there.sync, "checkpoints")
    with CheckpointWriter(there.path / "checkpoints", frozenset({2}), saved) as writer:
        for iteration in range(1, 5):
            state: Checkpoint = {"model": {}, "config": {}, "categories": {}, "report": None, "iteration": iteration}
            writer.write(state, best=iteration == 3)
    names = [f"checkpoints/{name}.pth" for name in ("best", "iter_0000003", "iter_0000004", "rung_0000002")]
    assert there.names("checkpoints") == names


# Errors


def test_no_bucket_is_one_error(server: S3Server) -> None:
    refused = command("status", server.address("study").replace(BUCKET, "elsewhere"))
    assert refused.exit_code == 2
    assert "there is no bucket 'elsewhere'" in refused.stderr.replace("\n", " ")
    assert isinstance(refused.exception, SystemExit)


@pytest.mark.slow
def test_a_server_that_goes_away_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)  # the client itself tries for six seconds
    with s3_server() as server:
        study = create_study(server.address("study"), config(), space(), settings())
        server.stop()
        with pytest.raises(CheckpointError, match=r"study\.yaml\?endpoint.*go on with `raytune-m2f resume`"):
            study.save(StudyPlan.load(study.plan_file))
        refused = command("status", study)
    assert refused.exit_code == 2
    assert "cannot be reached: " in refused.stderr.replace("\n", " ")
    assert isinstance(refused.exception, SystemExit)


# Whole studies


def test_status_and_export_without_a_driver(server: S3Server) -> None:
    address = server.address("shown")
    create_study(address, config(), space(), settings())
    open_record(study := StudyDirectory.at(address)).ask()
    study.commit()
    shown = command("status", address, "--json")
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["directory"] == address
    refused = command("export", address, "--output", "nowhere")
    assert refused.exit_code == 2
    assert "has weights to use yet" in refused.stderr.replace("\n", " ")


@pytest.mark.slow
def test_a_training_there_goes_on_and_is_exported(server: S3Server, tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(tiny_config.to_yaml())
    there = ObjectStore.at(server.address("run"))
    train = ["train", "--config", tmp_path / "config.yaml", "--output", there.address]
    for more in ([], ["--resume", "SOLVER.MAX_ITER=6"]):
        trained = command(*train, *more)
        assert trained.exit_code == 0, trained.output
    reports = [json.loads(line) for line in (there.read("metrics.jsonl") or "").splitlines()]
    assert [report["iteration"] for report in reports] == [2, 4, 6]
    text = there.read("log.txt") or ""
    assert text.index("iteration 2:") < text.index("going on from iteration 4") < text.index("iteration 6:")
    assert "--resume" in command(*train).stderr
    assert command("export", there.address, "--output", tmp_path / "model").exit_code == 0
    assert (tmp_path / "model" / "model.pth").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_of_a_trial_meet_on_the_store(server: S3Server) -> None:
    address = server.address("workers")
    asked = settings(trials=1, resources=Resources(workers=2), early_stopping=NO_STOPPING)
    create_study(address, config(), space(), asked)
    status = run_study(address, trial_function=FakeTraining(fault="die", at=50))
    assert states(status) == ["complete"]
    names = Folder.at(address).names("trials/0000", recursive=True)
    assert "trials/0000/log_1.txt" in names
    assert "trials/0000/.placement_group" not in names


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_server_that_hangs_ends_the_study_with_one_error_and_it_goes_on_later(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "ATTEMPTS", 1)
    address = server.address("hangs")
    create_study(address, config(), space(), settings(trials=2, early_stopping=NO_STOPPING))
    watched = ObjectStore.at(address)

    def hang() -> None:
        wait_until(lambda: (watched.read("trials/0000/metrics.jsonl") or "").count("\n") >= 2, "two reports")
        server.signal(signal.SIGSTOP)

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        with pytest.raises(CheckpointError, match=r"Timeout was reached.*go on with `raytune-m2f resume`"):
            run_study(address, trial_function=FakeTraining(seconds=1.0))
    finally:
        thread.join()
        server.signal(signal.SIGCONT)
    assert set(states(study_status(address))) <= {"complete", "unfinished", "running"}
    assert states(run_study(address, trial_function=FakeTraining())) == ["complete"] * 2
    check_curves(StudyDirectory.at(address))


def check_curves(study: StudyDirectory) -> None:
    """Each trial has every report of its scripted curve, once."""
    for trial in open_record(study).trials():
        steps = list(range(PERIOD, MAX_ITER + 1, PERIOD))
        assert trial.intermediate_values == {i: pytest.approx(score(trial.params[LR], i)) for i in steps}
        text = ObjectStore.at(str(study)).read(f"trials/{trial.number:04d}/metrics.jsonl") or ""
        assert [json.loads(line)["iteration"] for line in text.splitlines()] == steps


def started(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """A command in a directory and with a TMPDIR of its own, as if on another machine."""
    (folder / "tmp").mkdir(parents=True)
    return subprocess.Popen(
        [sys.executable, "-m", "raytune_m2f", *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "RAY_TMPDIR": "/tmp", "COLUMNS": "400"},
    )


def done(process: subprocess.Popen[str]) -> str:
    """What a command has printed; it has done its work, though so short a training may find nothing."""
    said, complaints = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == ("no trial has found anything" in complaints), complaints
    return said


@pytest.mark.slow
def test_a_killed_study_goes_on_from_another_directory(server: S3Server, tiny_config: Config, tmp_path: Path) -> None:
    """Real trainings; the same study without a kill, on disk, gives the same record."""
    file = tmp_path / "config.yaml"
    file.write_text(tiny_config.with_values({"SOLVER.MAX_ITER": 12, "TEST.EVAL_PERIOD": 4}, source="test").to_yaml())
    address = server.address("killed")
    asked = ["--config", file, "--space", "learning_rate", "--trials", 3, "--concurrent", 1, "--early-stopping", "none"]
    driver = started(tmp_path / "first", "tune", "--study", address, *asked)
    watched = ObjectStore.at(address)
    checkpoint = "trials/0001/checkpoints/iter_0000004.pth"
    wait_until(lambda: watched.modified(checkpoint) is not None, "a checkpoint of the second trial")
    os.killpg(driver.pid, signal.SIGKILL)
    end_of(driver)
    done(started(tmp_path / "second", "resume", address))
    found = json.loads(done(started(tmp_path / "third", "status", address, "--json")))
    assert [trial["state"] for trial in found["trials"]] == ["complete"] * 3
    assert found["driver"] is None
    done(started(tmp_path / "fourth", "export", address, "--output", "model"))
    assert (tmp_path / "fourth/model/model.pth").stat().st_size > 10_000
    assert "going on from iteration" in (watched.read("trials/0001/log.txt") or "")
    assert not [name for name in Folder.at(address).names("trials", recursive=True) if "/iter_" in name]
    done(started(tmp_path / "disk", "tune", "--study", "study", *asked))
    there = open_record(StudyDirectory.at(address)).trials()
    here = open_record(StudyDirectory.at(tmp_path / "disk/study")).trials()
    for one, other in zip(there, here, strict=True):
        assert one.params == other.params
        assert one.intermediate_values == pytest.approx(other.intermediate_values, rel=1e-3, abs=0.1)
