"""Submit, find, follow and stop jobs on a cluster; read a study there by a short job."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytune_m2f.cluster.client import clear_answers, connect
from raytune_m2f.errors import InputError, RaytuneM2FError
from raytune_m2f.launch.session import ENVIRONMENT

if TYPE_CHECKING:
    from raytune_m2f.study.status import StudyStatus

STOP_S = 120
"""Seconds that a driver has to end its trials before Ray kills it. Ray's own default is 3 s."""
ANSWER_S = 180.0
"""Seconds after which a short job is given up."""
POLL_S = 0.5
COMMAND, STUDY = "raytune-m2f", "study"  # of a job's metadata


@dataclass(frozen=True)
class JobCommand:
    """What a job runs.

    Attributes:
        name: tune, train, resume, extend or confirm.
        home: the study, or the output of `train`: a path that all nodes see, or an address.
        arguments: after `raytune-m2f`, for the folder in which the job starts.
        again: the arguments that resume it after it was stopped.
        along: options of `submit` for the files that are sent with it.
        left_out: number of files of its packages that are not sent.
    """

    name: str
    home: str
    arguments: list[str]
    again: list[str]
    along: list[str]
    left_out: int

    @property
    def entrypoint(self) -> str:
        """The command line for Ray."""
        return on_cluster(self.arguments)


def on_cluster(arguments: Sequence[str]) -> str:
    """The shell command for `raytune-m2f` with these arguments on the cluster, where it need not be on the PATH.

    `exec` replaces the shell, so that a signal for the job reaches the command.
    """
    return f"exec python -m raytune_m2f {shlex.join(arguments)}"


def require_shared(what: str, path: str) -> None:
    """Refuse a path that only this machine has.

    Raises:
        InputError: it is neither absolute nor an address; `what` names the argument in the message.
    """
    if not path.startswith("/") and "://" not in path:
        raise InputError(
            f"{what}: got {path!r}, allowed on a cluster: an absolute path on storage that all nodes share, or an "
            "address such as s3://bucket/path. This machine's folders are not there."
        )


class Jobs:
    """The jobs of this package on one cluster. Every method raises RaytuneM2FError if the cluster does not answer.

    Args:
        address: of its dashboard, http://HOST:PORT.

    Raises:
        InputError: there is no cluster, or it does not let us in.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = connect(address)

    def submit(self, command: JobCommand, folder: Path) -> str:
        """Start a job in a copy of `folder`; it ends with its command, not with this process.

        Returns:
            Its id, which begins with the name of the study.

        Raises:
            InputError: another job runs the study.
        """
        for job in self._own():
            if job.metadata[STUDY] == command.home and not job.status.is_terminal():
                raise InputError(
                    f"{command.home} is being run by the job {job.submission_id}. Wait for it, or stop it: "
                    f"raytune-m2f stop --address {self.address} {job.submission_id}"
                )
        study = command.home.partition("?")[0].rsplit("/", 1)[-1]
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", study).strip("-.") or "study"
        metadata = {COMMAND: command.name, STUDY: command.home}
        return self._start(f"{name}-{command.name}", command.entrypoint, metadata, working_dir=str(folder))

    def find(self, job_or_study: str) -> Any:
        """Ray's JobDetails of the job with this id, or of the latest job of this study.

        Raises:
            InputError: there is none; the message names the jobs that there are.
        """
        jobs = self._own()
        wanted = job_or_study.rstrip("/")
        found = [job for job in jobs if wanted in (job.submission_id, job.metadata[STUDY])]
        if found:
            return max(found, key=lambda job: job.start_time or 0)
        known = ", ".join(f"{job.submission_id} ({job.metadata[STUDY]})" for job in jobs[-10:]) or "none"
        raise InputError(
            f"{self.address} has no job {job_or_study!r}. Its jobs: {known}. If its head was lost, so are "
            f"its jobs, but no study: raytune-m2f submit --address {self.address} -- resume STUDY"
        )

    def logs(self, job: str) -> str:
        """The output of a job so far."""
        with clear_answers(self.address):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, show: Callable[[str], None]) -> Any:
        """Pass on the output of a job until it has ended; returns its JobDetails."""

        async def tail() -> None:
            async for text in self._client.tail_job_logs(job):
                show(text)

        with clear_answers(self.address):
            asyncio.run(tail())
        return self._end_of(job, ANSWER_S)

    def stop(self, job: str) -> Any:
        """End a job as Ctrl-C would, and wait for its end; returns its JobDetails."""
        with clear_answers(self.address):
            self._client.stop_job(job)
        return self._end_of(job, STOP_S + 30.0)

    def study_status(self, study: str) -> StudyStatus:
        """The status of a study that only the cluster can read: a short job there reads it.

        Raises:
            InputError: there is no such study.
        """
        require_shared("STUDY", study)
        from raytune_m2f.study.status import StudyStatus

        printed = self._output_of("status", study, "--json")
        try:
            return StudyStatus.from_json(json.dumps(_json_in(printed)))
        except (ValueError, KeyError, TypeError) as error:
            raise RaytuneM2FError(
                f"the answer of {self.address} cannot be read ({error}). Has it another raytune-m2f? It was:\n{printed}"
            ) from error

    def _output_of(self, *arguments: str) -> str:
        """The output of a command on the head; the job that runs it is deleted afterwards."""
        job = self._start(f"ask-{arguments[0]}", on_cluster(arguments), {COMMAND: arguments[0]})
        try:
            info = self._end_of(job, ANSWER_S)
            printed = self.logs(job).partition("Running entrypoint for job")[2].partition("\n")[2]
        except BaseException:  # Ctrl-C too
            with clear_answers(self.address):
                self._client.stop_job(job)
            raise
        with clear_answers(self.address):
            self._client.delete_job(job)
        if info.status == "SUCCEEDED":
            return printed
        kind = InputError if info.driver_exit_code == InputError.exit_code else RaytuneM2FError
        raise kind(printed.rpartition("error: ")[2].strip() or str(info.message))

    def _start(self, name: str, entrypoint: str, metadata: dict[str, str], **runtime_env: str) -> str:
        """Start a job and return its id. It asks for no resources, so that a head without a free CPU starts it, too."""
        variables = {**ENVIRONMENT, "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}
        with clear_answers(self.address):
            return str(
                self._client.submit_job(
                    entrypoint=entrypoint,
                    submission_id=f"{name}-{uuid.uuid4().hex[:6]}",
                    metadata=metadata,
                    runtime_env={**runtime_env, "env_vars": variables},
                )
            )

    def _own(self) -> list[Any]:
        """The jobs that `submit` started, the oldest first."""
        with clear_answers(self.address):
            jobs = [job for job in self._client.list_jobs() if {COMMAND, STUDY} <= (job.metadata or {}).keys()]
        return sorted(jobs, key=lambda job: job.start_time or 0)

    def _end_of(self, job: str, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while True:
            with clear_answers(self.address):
                info = self._client.get_job_info(job)
            if info.status.is_terminal():
                return info
            if time.monotonic() > end:
                raise RaytuneM2FError(
                    f"the job {job} has not ended after {seconds:g} s, it is {info.status}. Look at its log: "
                    f"raytune-m2f logs --address {self.address} {job}"
                )
            time.sleep(POLL_S)


def _json_in(printed: str) -> Any:
    """The JSON object in what a job printed, which may have warnings before and after it."""
    begin = re.search(r"^\{", printed, flags=re.MULTILINE)
    if begin is None:
        raise ValueError("it has no JSON")
    return json.JSONDecoder().raw_decode(printed, begin.start())[0]
