"""The commands for a cluster elsewhere: a job that outlives this terminal, its log, its end."""

from __future__ import annotations

import logging
import shlex
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from raytune_m2f.cli.console import clear_errors, err, out
from raytune_m2f.cli.options import Dashboard
from raytune_m2f.progress import still

log = logging.getLogger(__name__)

JobOrStudy = Annotated[str, typer.Argument(metavar="JOB|STUDY", help="Id of the job, or the study: its latest job.")]
Follow = Annotated[
    bool, typer.Option("--follow", help="Show the job's log until it ends; Ctrl-C leaves the job alone.")
]


def submit(
    context: typer.Context,
    command: Annotated[
        list[str],
        typer.Argument(
            metavar="-- COMMAND ...", help="tune, train, resume, extend or confirm, as it would be typed there."
        ),
    ],
    address: Dashboard,
    module: Annotated[
        list[Path] | None,
        typer.Option(help="Module (.py) or package folder whose Python the job can import. Several times: several."),
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            help="Data file that the job reads beside its modules, or in its package. Several times: several."
        ),
    ] = None,
    follow: Follow = False,
) -> None:
    """Run a command on a Ray cluster as a job, which goes on when this terminal is closed.

    The configuration, the search space, the Python files of the modules and what --file names are sent along, and shown
    before. The study, the data and the weights are on the cluster: give their paths as its nodes see them.

    Example: raytune-m2f submit --address http://head:8265 -- tune --config my.yaml --space default
    --study /mnt/shared/studies/first
    """
    with clear_errors(), tempfile.TemporaryDirectory(prefix="raytune_m2f_") as folder:
        from raytune_m2f.cli.submit import read_command
        from raytune_m2f.cluster.jobs import Jobs
        from raytune_m2f.cluster.pack import what_is_sent

        wanted = read_command(context, command, module or [], Path(folder), file or [])
        jobs = Jobs(address)
        for line in what_is_sent(Path(folder)):
            err.print(line, soft_wrap=True, highlight=False)
        if wanted.left_out:
            left_out = f"left out: {wanted.left_out} files that are no Python; name those that are needed: --file"
            err.print(left_out, soft_wrap=True)
        job = jobs.submit(wanted, Path(folder))
        lines = {
            "follow": ["logs", "--address", address, job, "--follow"],
            "status": ["status", "--address", address, wanted.home],
            "stop": ["stop", "--address", address, job],
            "resume": ["submit", "--address", address, *wanted.along, "--", *wanted.again],
        }
        if wanted.name == "train":
            del lines["status"]  # a training has only its log
        for name, words in lines.items():
            typer.echo(f"{name + ':':<8}raytune-m2f {shlex.join(words)}")
        if follow:
            _follow(jobs, job)


def logs(job: JobOrStudy, address: Dashboard, follow: Follow = False) -> None:
    """Show what a job on a cluster has printed.

    Example: raytune-m2f logs --address http://head:8265 /mnt/shared/studies/first --follow
    """
    with clear_errors():
        from raytune_m2f.cluster.jobs import Jobs

        jobs = Jobs(address)
        found = jobs.find(job)
        if follow:
            _follow(jobs, found.submission_id)
        else:
            typer.echo(jobs.logs(found.submission_id), nl=False)


def stop(job: JobOrStudy, address: Dashboard) -> None:
    """Stop a job on a cluster, as Ctrl-C would: what was finished is kept, and the study can be resumed.

    Example: raytune-m2f stop --address http://head:8265 /mnt/shared/studies/first
    """
    with clear_errors():
        from raytune_m2f.cluster.jobs import Jobs

        jobs = Jobs(address)
        found = jobs.find(job)
        if found.status.is_terminal():
            out.print(f"the job {found.submission_id} has ended already: {found.status}", soft_wrap=True)
            return
        log.info("stopping the job %s: its trials have two minutes to end in order", found.submission_id)
        with still(log, "stopping"):
            ended = jobs.stop(found.submission_id)
        out.print(f"the job {found.submission_id} has ended: {ended.status}", soft_wrap=True)


def _follow(jobs: Any, job: str) -> None:
    """Show a job's log to its end, and exit as it did."""
    try:
        ended = jobs.follow(job, lambda text: typer.echo(text, nl=False))
    except KeyboardInterrupt:
        err.print(f"the job goes on; to stop it: raytune-m2f stop --address {jobs.address} {job}", soft_wrap=True)
        raise SystemExit(130) from None
    if ended.status != "SUCCEEDED":
        err.print(f"the job {job} has ended: {ended.status}", soft_wrap=True)
        raise SystemExit(ended.driver_exit_code or 1)
