"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Option("--config", help="Configuration in detectron2's keys (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Configuration values that win over the file.")
]
Address = Annotated[str | None, typer.Option(help="Ray cluster to run on, e.g. 'auto'; by default this machine alone.")]
Dashboard = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        help="Dashboard of the Ray cluster, e.g. http://head:8265; by default what this variable says.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="Run the Python files that the stored configuration names (DATASETS.IMPORT). Read them first."
    ),
]
GpusPerWorker = Annotated[
    float | None, typer.Option(min=0, help="GPUs of a worker, a fraction shares one; by default 1 if there is any.")
]
