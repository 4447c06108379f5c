"""The command line of this process, as it can be typed again; the record of a study keeps it for the report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from raytune_m2f.storage.address import holds_credentials, without_credentials

PROGRAM = "raytune-m2f"


def given_command(words: Sequence[str] | None = None) -> str:
    """What was typed to start this process: `raytune-m2f tune ...`, or the script that has called the Python API.

    Passwords and tokens in addresses are left out: the record is kept, and a report is handed on.

    Args:
        words: of the process, by default its own (sys.argv).
    """
    program, *rest = list(sys.argv if words is None else words) or [""]
    path = Path(program)
    if path.name == "__main__.py" and path.parent.name == "raytune_m2f":  # python -m raytune_m2f
        path = Path(PROGRAM)
    name = path.name if path.name == PROGRAM else f"python {shlex.quote(program)}" if program else "python"
    shown = [without_credentials(word) if holds_credentials(word) else word for word in rest]
    return " ".join([name, *map(shlex.quote, shown)])
