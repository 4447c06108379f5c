"""Sockets where TMPDIR is long: their paths have 107 characters at most, and a batch system's TMPDIR may have more.

All that is no socket stays in TMPDIR.
"""

from __future__ import annotations

import multiprocessing.util
import os
import tempfile
from pathlib import Path

from raytune_m2f.errors import InputError

LONGEST = 103
"""Characters of a socket's path; Linux takes 107, macOS 103."""
SHORT = Path("/tmp")


def short_folder(folder: Path, below: int) -> Path:
    """`folder`, or `/tmp` if a socket's path, `below` characters longer, would be too long.

    Raises:
        InputError: it would be, and nothing can be written in /tmp.
    """
    if len(os.fsencode(folder.absolute())) + below <= LONGEST:
        return folder
    if not os.access(SHORT, os.W_OK | os.X_OK):
        raise InputError(
            f"TMPDIR is {folder}, of {len(os.fsencode(folder.absolute()))} characters: too long for the sockets of Ray "
            f"and of the processes that load images, for which {LONGEST - below} are allowed, and {SHORT} cannot be "
            "written either. Set TMPDIR and RAY_TMPDIR to a shorter one."
        )
    return SHORT


def keep_multiprocessing_short() -> None:
    """Have Python's processes and those that they start put their sockets where the path is short enough.

    Python makes the folder once in a process and deletes it at its end; it is made here, unless it is there already.
    """
    given = Path(tempfile.gettempdir())
    short = short_folder(given, len("/pymp-12345678/listener-12345678"))
    if short == given:
        return
    before, tempfile.tempdir = tempfile.tempdir, str(short)
    try:
        multiprocessing.util.get_temp_dir()
    finally:
        tempfile.tempdir = before
