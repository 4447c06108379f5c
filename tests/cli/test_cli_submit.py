"""The command of a job: what is wrong is said here, and what is sent says the same as what was typed."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from raytune_m2f.cli.main import app

Submit = Callable[..., Result]
URL = "http://head:8265"


class Cluster:
    """Stands for Ray's JobSubmissionClient; keeps what it was sent."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.jobs: list[Any] = []

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def submit_job(self, **sent: Any) -> str:
        self.sent = sent
        folder = Path(sent["runtime_env"]["working_dir"])
        self.files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
        return str(sent["submission_id"])

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.sent["entrypoint"])[4:]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr("raytune_m2f.cluster.jobs.connect", lambda address: found)
    return found


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> Submit:
    monkeypatch.setattr("raytune_m2f.cli.console.err.width", 400)
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    return lambda *words, before=(): CliRunner().invoke(
        app, ["submit", "--address", URL, *map(str, before), "--", *map(str, words)]
    )


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text("DATASETS: {REGISTER: {train: {annotations: /data/train.json, images: /data/train}}}\n")
    return path


def refused(result: Result, cluster: Cluster) -> str:
    """What was said of wrong input; nothing was sent."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert cluster.sent == {}
    assert result.stdout == ""
    return result.stderr


def test_a_study_is_sent_with_all_that_it_reads(submit: Submit, cluster: Cluster, config_file: Path) -> None:
    space = config_file.with_name("mine.yaml")
    space.write_text("SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}\n")
    module = config_file.with_name("helpers.py")
    module.write_text("X = 1\n")
    result = submit(
        "tune", "--config", config_file, "--space", space, "--study", "/shared/my study/", "SEED=5", "--trials", 7,
        "--metric=-loss", "--metric", "segm/AP", before=["--module", module],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert cluster.arguments == [
        "tune", "--config=config.yaml", "--space=space.yaml", "--study=/shared/my study/", "--trials=7",
        "--metric=-loss", "--metric=segm/AP", "--address=auto",
    ]  # fmt: skip
    assert set(cluster.files) == {"config.yaml", "space.yaml", "helpers.py"}
    assert yaml.safe_load(cluster.files["config.yaml"])["SEED"] == 5
    assert cluster.sent["metadata"] == {"raytune-m2f": "tune", "study": "/shared/my study"}
    assert cluster.sent["submission_id"].startswith("my-study-tune-")
    assert cluster.sent["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "120"
    assert not {name for name in cluster.sent if name.startswith("entrypoint_num")}  # the head may have no CPU to give


def test_files_that_the_configuration_imports_go_along_by_name(
    submit: Submit, cluster: Cluster, config_file: Path
) -> None:
    """By name, for the next job has another folder; so they have to be sent again."""
    module = config_file.with_name("my_data.py")
    module.write_text("")
    config_file.write_text("ENGINE: detectron2\nDATASETS: {IMPORT: [my_data.py, installed.module], TRAIN: [mine]}\n")
    result = submit("tune", "--config", config_file, "--space", "learning_rate", "--study", "/shared/first")
    assert result.exit_code == 0, result.output
    assert yaml.safe_load(cluster.files["config.yaml"])["DATASETS"]["IMPORT"] == ["my_data", "installed.module"]
    assert "my_data.py" in cluster.files
    assert f" --module {module} -- resume /shared/first --trust" in result.stdout.splitlines()[-1]


def test_how_to_go_on_is_printed(submit: Submit, cluster: Cluster) -> None:
    result = submit("extend", "s3://bucket/studies/first", "--trials", 5)
    assert result.exit_code == 0, result.output
    job = cluster.sent["submission_id"]
    assert result.stdout.splitlines() == [
        f"follow: raytune-m2f logs --address {URL} {job} --follow",
        f"status: raytune-m2f status --address {URL} s3://bucket/studies/first",
        f"stop:   raytune-m2f stop --address {URL} {job}",
        f"resume: raytune-m2f submit --address {URL} -- resume s3://bucket/studies/first",
    ]
    assert cluster.arguments == ["extend", "--trials=5", "--address=auto", "s3://bucket/studies/first"]


def test_several_earlier_studies_are_sent(submit: Submit, cluster: Cluster, config_file: Path) -> None:
    words = (
        "tune",
        "--config",
        config_file,
        "--space",
        "default",
        "--study",
        "/s",
        "--from",
        "/a",
        "--from",
        "s3://b/c",
    )
    assert submit(*words).exit_code == 0
    assert [word for word in cluster.arguments if word.startswith("--from")] == ["--from=/a", "--from=s3://b/c"]


def test_a_training_goes_on_by_the_same_command(submit: Submit, cluster: Cluster, config_file: Path) -> None:
    result = submit("train", "--config", config_file, "--output", "/shared/run")
    assert result.exit_code == 0, result.output
    again = result.stdout.splitlines()[-1]
    assert again.endswith(f"-- train --config {config_file} --output /shared/run --resume")
    assert submit(*shlex.split(again.partition(" -- ")[2])).exit_code == 0
    assert cluster.arguments == ["train", "--config=config.yaml", "--output=/shared/run", "--address=auto", "--resume"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "studies/first"], "absolute path"),
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "~/first"], "absolute path"),
        (["tune", "--config", "CONFIG", "--space", "default"], "--study"),
        (["tune", "--config", "CONFIG", "--space", "defalt", "--study", "/s"], "default"),
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "/s", "--trails", "3"], "--trails"),
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "/s", "--trials", "0"], "--trials"),
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "/s", "--time", "long"], "duration"),
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "/s", "SOLVER.BASE_RL=1"], "SOLVER.BASE_LR"),
        (["tune", "--config", "CONFIG", "--space", "default", "--study", "/s", "fast"], "KEY=VALUE"),
        (["tune", "--config", "no.yaml", "--space", "default", "--study", "/s"], "no.yaml"),
        (["tune", "--config", "CONFIG", "--space", "demo", "--study", "/s", "--from", "/a", "--from", "old"], "--from"),
        (["train", "--config", "CONFIG", "--output", "runs/first"], "--output"),
        (["resume", "studies/first"], "absolute path"),
        (["resume", "/s", "--address", "auto"], "--address"),
        (["demo"], "allowed: tune, resume"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_here_and_nothing_is_sent(
    submit: Submit, cluster: Cluster, config_file: Path, words: list[str], said: str
) -> None:
    words = [str(config_file) if word == "CONFIG" else word for word in words]
    assert said in refused(submit(*words), cluster)


def test_what_is_sent_is_said_before(submit: Submit, cluster: Cluster, config_file: Path) -> None:
    package = config_file.parent / "mine"
    (package / "data").mkdir(parents=True)
    for name in ("__init__.py", ".env", "id_rsa", "notes.txt", "data/colours.json"):
        (package / name).write_text("x" * 2000)
    table = config_file.with_name("table.csv")
    table.write_text("a,b\n")
    words = ("train", "--config", config_file, "--output", "/shared/run")
    before = ["--module", package, "--file", table, "--file", package / "data" / "colours.json"]
    result = submit(*words, before=before)
    assert result.exit_code == 0, result.output
    assert set(cluster.files) == {"config.yaml", "mine/__init__.py", "mine/data/colours.json", "table.csv"}
    for line in ("sent along: 4 files", "2.0 kB  mine/__init__.py", "2.0 kB  mine/data/colours.json", "table.csv"):
        assert line in result.stderr
    assert "left out: 2 files that are no Python" in result.stderr  # the hidden one is not even looked at
    assert f"--module {package} --file {table} --file" in cluster_resume(result)


def cluster_resume(result: Result) -> str:
    """How the job goes on, as it was printed."""
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "word",
    [
        "--optuna-storage=postgresql://me:hunter2@host/optuna",
        "--optuna-storage=postgresql://host/optuna?password=hunter2",
        "--optuna-storage=mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD%3Dhunter2",
        "MODEL.WEIGHTS=https://me:hunter2@host/w.pth",
        "MODEL.WEIGHTS=https://host/w.pth?token=hunter2",
        "MODEL.WEIGHTS=https://host/w.pth?sv=1&sig=hunter2",
        "--from=s3://key:hunter2@bucket/study",
        "--from=s3://bucket/study?endpoint_override=http%3A%2F%2Fme%3Ahunter2%40host",
    ],
)
def test_credentials_are_no_part_of_a_job(submit: Submit, cluster: Cluster, config_file: Path, word: str) -> None:
    text = refused(submit("tune", "--config", config_file, "--space", "default", "--study", "/s", word), cluster)
    assert "hunter2" not in text
    assert "password" in text or "credentials" in text


def test_credentials_of_the_nodes_environment_are_let_through(
    submit: Submit, cluster: Cluster, config_file: Path
) -> None:
    storage = "--optuna-storage=postgresql://me:${DB_PASSWORD}@host/optuna"
    result = submit("tune", "--config", config_file, "--space", "default", "--study", "/s", storage)
    assert result.exit_code == 0, result.output
    assert storage in cluster.arguments


@pytest.mark.parametrize("path", [".", "..", "/etc/passwd", "no/such.py"])
def test_what_is_no_module_is_refused(
    submit: Submit, cluster: Cluster, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    assert "--module" in refused(submit("resume", "/s", before=["--module", path]), cluster)


def test_trust_goes_along(submit: Submit, cluster: Cluster) -> None:
    result = submit("resume", "/s", "--trust")
    assert result.exit_code == 0, result.output
    assert "--trust" in cluster.arguments
    assert cluster_resume(result).endswith("-- resume /s --trust")


def test_a_study_that_a_job_runs_gets_no_second_one(submit: Submit, cluster: Cluster) -> None:
    running = SimpleNamespace(is_terminal=lambda: False)
    metadata = {"raytune-m2f": "tune", "study": "/shared/first"}
    cluster.jobs = [SimpleNamespace(submission_id="first-tune-1", metadata=metadata, status=running, start_time=1)]
    assert "first-tune-1" in refused(submit("resume", "/shared/first/"), cluster)
    assert submit("resume", "/shared/second").exit_code == 0


def test_quiet_behind_the_command_is_the_jobs(submit: Submit, cluster: Cluster) -> None:
    assert submit("resume", "-q", "/mnt/studies/first").exit_code == 0
    assert cluster.arguments == ["resume", "--address=auto", "--quiet", "/mnt/studies/first"]
    assert submit("resume", "/mnt/studies/first").exit_code == 0
    assert "--quiet" not in cluster.arguments


def test_a_configuration_that_comes_with_the_package_is_named(submit: Submit, cluster: Cluster) -> None:
    done = submit("tune", "--config", "maskformer2_R18_instance", "--space", "queries", "--study", "/mnt/studies/first")
    assert done.exit_code == 0, done.output
    assert "ResNet18_Weights" in cluster.files["config.yaml"]
