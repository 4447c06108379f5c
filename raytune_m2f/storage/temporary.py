"""Under TMPDIR: working copies that go with their owner, and sockets where TMPDIR is too long for them.

A socket's path has 107 characters at most, and a batch system's TMPDIR may have more.
"""

from __future__ import annotations

import fcntl
import multiprocessing.util
import os
import shutil
import tempfile
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

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


def working_copy(owner: object, name: str) -> Path:
    """A new folder of this name that lives as long as its owner; those of processes that were killed are deleted."""
    root = Path(tempfile.gettempdir()) / f"raytune_m2f_{os.getuid()}"
    root.mkdir(exist_ok=True, mode=0o700)
    for other in root.glob("*.lock"):
        _sweep(other)
    folder = root / uuid.uuid4().hex[:12]
    folder.mkdir()
    lock = folder.with_suffix(".new")
    file = lock.open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    lock = lock.rename(folder.with_suffix(".lock"))  # only now: who sweeps would take one that is not locked yet
    weakref.finalize(owner, _discard, file, lock, os.getpid())
    (folder / name).mkdir()
    return folder / name


def _sweep(lock: Path) -> None:
    with suppress(OSError), lock.open() as file:  # its owner lives, or somebody else swept it
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _delete(lock)


def _discard(file: IO[str], lock: Path, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked from the owner's
        _delete(lock)
    file.close()


def _delete(lock: Path) -> None:
    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
    lock.unlink(missing_ok=True)
