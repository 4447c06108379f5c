"""Jobs on a cluster that is only told: found, stopped, followed, and asked how a study stands."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_study import leave_reports, new_study, open_record
from typer.testing import CliRunner, Result

from raytune_m2f.cli.main import app
from raytune_m2f.cluster.jobs import Jobs
from raytune_m2f.errors import InputError, RaytuneM2FError
from raytune_m2f.study.status import StudyStatus, study_status

URL = "http://head:8265"
Run = Callable[..., Result]


class Status(str):
    """Stands for Ray's JobStatus."""

    def is_terminal(self) -> bool:
        return self in ("STOPPED", "SUCCEEDED", "FAILED")


def job(name: str, status: str = "RUNNING", *, study: str | None = "/shared/first", start: int = 1) -> Any:
    metadata = {"raytune-m2f": "tune"} | ({"study": study} if study else {})
    return SimpleNamespace(
        submission_id=name,
        status=Status(status),
        metadata=metadata,
        start_time=start,
        driver_exit_code=None,
        message="",
    )


class Cluster:
    """Stands for Ray's JobSubmissionClient.

    Attributes:
        ends: status and exit code of a job, as soon as it is started or stopped.
        prints: what a job prints.
    """

    def __init__(self) -> None:
        self.jobs: dict[str, Any] = {}
        self.ends = ("SUCCEEDED", 0)
        self.prints = ""
        self.entrypoints: list[str] = []

    def add(self, *jobs: Any) -> None:
        self.jobs.update({each.submission_id: each for each in jobs})

    def list_jobs(self) -> list[Any]:
        return list(self.jobs.values())

    def submit_job(self, *, entrypoint: str, submission_id: str, **_: Any) -> str:
        self.entrypoints.append(entrypoint)
        self.add(job(submission_id, study=None))
        self._end(submission_id)
        return submission_id

    def stop_job(self, name: str) -> None:
        self._end(name)

    def delete_job(self, name: str) -> None:
        del self.jobs[name]

    def get_job_info(self, name: str) -> Any:
        return self.jobs[name]

    def get_job_logs(self, name: str) -> str:
        return f"Runtime env is setting up.\nRunning entrypoint for job {name}: python\n{self.prints}"

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        yield self.get_job_logs(name)
        self._end(name)

    def _end(self, name: str) -> None:
        status, code = self.ends
        self.jobs[name].status, self.jobs[name].driver_exit_code = Status(status), code


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr("raytune_m2f.cluster.jobs.connect", lambda address: found)
    return found


@pytest.fixture
def run(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Run:
    for console in ("err", "out"):
        monkeypatch.setattr(f"raytune_m2f.cli.console.{console}.width", 400)
    return lambda command, *words: CliRunner().invoke(app, [command, "--address", URL, *words])


def test_jobs_are_found_by_id_and_by_study(cluster: Cluster) -> None:
    cluster.add(job("new", start=2), job("old", start=1), job("ask", study=None, start=3))
    cluster.add(SimpleNamespace(submission_id="of somebody else", metadata=None, start_time=4))
    jobs = Jobs(URL)
    assert jobs.find("/shared/first/").submission_id == "new"
    assert jobs.find("old").submission_id == "old"
    with pytest.raises(InputError, match=r"has no job 'other'.*old \(/shared/first\), new .*resume STUDY"):
        jobs.find("other")


def test_stop_waits_for_the_end_and_says_so(cluster: Cluster, run: Run) -> None:
    cluster.add(job("first-tune-1"))
    cluster.ends = ("STOPPED", -15)
    assert run("stop", "/shared/first").stdout == "the job first-tune-1 has ended: STOPPED\n"
    assert run("stop", "/shared/first").stdout == "the job first-tune-1 has ended already: STOPPED\n"
    assert run("stop", "/shared/second").exit_code == 2


@pytest.mark.parametrize(("status", "code", "exit_code"), [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1)])
def test_who_follows_a_job_exits_as_it_did(
    cluster: Cluster, run: Run, status: str, code: int | None, exit_code: int
) -> None:
    cluster.add(job("first-tune-1"))
    cluster.ends, cluster.prints = (status, code), "trial 0 complete\n"  # type: ignore[assignment]
    shown = run("logs", "first-tune-1", "--follow")
    assert shown.exit_code == exit_code
    assert shown.stdout.endswith("trial 0 complete\n")
    assert run("logs", "first-tune-1").stdout == shown.stdout


def test_a_status_is_the_same_after_its_journey(tmp_path: Path) -> None:
    study = new_study(tmp_path)
    record = open_record(study)
    number = record.ask()
    leave_reports(study.trial(number), {10: 1.5})
    record.reconcile()
    status = study_status(study.root)
    assert [trial.best for trial in status.trials] == [1.5]
    assert StudyStatus.from_json(status.to_json()) == status


def test_a_short_job_tells_how_a_study_stands(cluster: Cluster, run: Run, tmp_path: Path) -> None:
    study = new_study(tmp_path)
    open_record(study)
    status = study_status(study.root)
    cluster.prints = f"a warning about {{something}}\n{status.to_json()}\nanother one\n"
    assert Jobs(URL).study_status("/shared/first") == status
    assert cluster.entrypoints == ["exec python -m raytune_m2f status /shared/first --json"]
    assert cluster.jobs == {}  # forgotten
    assert "no trials yet" in run("status", "/shared/first").stdout


def test_what_the_short_job_could_not_do_is_our_error(cluster: Cluster, run: Run) -> None:
    cluster.ends, cluster.prints = ("FAILED", 2), "error: /shared/first is no study directory\n"
    failed = run("status", "/shared/first")
    assert (failed.exit_code, failed.stderr) == (2, "error: /shared/first is no study directory\n")
    cluster.ends, cluster.prints = ("FAILED", 1), "Killed"
    with pytest.raises(RaytuneM2FError, match="Killed"):
        Jobs(URL).study_status("/shared/first")
    cluster.ends, cluster.prints = ("SUCCEEDED", 0), '{"directory": "/shared/first", "new": 1}'
    with pytest.raises(RaytuneM2FError, match="another raytune-m2f"):
        Jobs(URL).study_status("/shared/first")
    with pytest.raises(InputError, match="absolute path"):
        Jobs(URL).study_status("studies/first")


@pytest.mark.parametrize("command", ["submit", "logs", "stop"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    assert f"Example: raytune-m2f {command}" in CliRunner().invoke(app, [command, "--help"]).stdout
