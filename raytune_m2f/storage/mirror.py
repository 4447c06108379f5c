"""A folder on an object store (s3://, gs://) and its copy on this machine.

All code works on local files: what it reads is pulled before, what it wrote is pushed after. A put on these stores is
atomic, so a file there is the old one or the new one as a whole. Credentials come from the environment alone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from raytune_m2f.errors import CheckpointError
from raytune_m2f.storage.address import ADVICE, address_within, connect, reason

Result = TypeVar("Result")
Stamp = tuple[int, int, int]
log = logging.getLogger(__name__)

ATTEMPTS, PAUSE_S = 3, 1.0  # beside those of the store's own client, which take it seconds
SHARED_NOTES = (".micro_batch", ".placement_group", ".node")  # other hidden files are this machine's own
BLOCK = 2**24


class Mirror:
    """A folder on a store, and its copy under TMPDIR, which goes with this object or with its killed process.

    A store that does not answer is asked again for some seconds; then a CheckpointError says so.

    Attributes:
        address: of the folder on the store.
        folder: the copy; files have the same names, relative to it and with `/`.
    """

    def __init__(self, store: Any, base: str, address: str) -> None:
        """`store` is a pyarrow filesystem, `base` the folder's path in it."""
        self._store = store
        self._base = base.rstrip("/")
        self._known: dict[str, Stamp] = {}  # the files here that are on the store as they are
        self.address = address
        self.folder = _scratch(self) / Path(self._base).name
        self.folder.mkdir()

    @classmethod
    def at(cls, address: str, *within: str) -> Mirror:
        """The folder at an address, or one within it.

        Raises:
            InputError: it is no address, holds a password, or its bucket does not answer.
        """
        store, base = connect(address)
        return cls(store, "/".join([base, *within]), address_within(address, *within))

    def address_of(self, name: str) -> str:
        """The address of a file or a folder in this one."""
        return address_within(self.address, name)

    # Names

    def names(self, under: str = "", *, recursive: bool = False) -> list[str]:
        """The files on the store, in one folder or also below it."""
        return [name for name, is_file in self._listed(under, recursive) if is_file]

    def outline(self, under: str = "", *, recursive: bool = False) -> list[str]:
        """Make the names here those of the store: a file that was not here is empty until it is pulled."""
        listed = self._listed(under, recursive)
        there = {name for name, is_file in listed if is_file}
        folder = self.folder / under
        for path in [path for path in folder.glob("**/*" if recursive else "*") if path.is_file()]:
            if not path.name.startswith(".") and self._name(path) not in there:
                path.unlink()
        for name, is_file in listed:
            path = self.folder / name
            (path.parent if is_file else path).mkdir(parents=True, exist_ok=True)
            if is_file:
                path.touch()
        return [name for name, is_file in listed if is_file]

    def exists(self, name: str) -> bool:
        return self.modified(name) is not None

    def modified(self, name: str) -> float | None:
        """When a file was written, by the store's clock [s]; None if it is not there."""
        info = self._tried(name, partial(self._store.get_file_info, self._there(name)))
        return None if info.mtime_ns is None else info.mtime_ns / 1e9

    # Files

    def pull(self, *names: str) -> None:
        """Copy files from the store; one that is not there is not here either then."""
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.pulled")
            try:
                self._tried(name, partial(self._download, name, temporary))
            except FileNotFoundError:
                temporary.unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                self._known.pop(name, None)
                continue
            temporary.replace(path)
            self._known[name] = _stamp(path)

    def push(self, *names: str) -> None:
        """Copy files to the store; one that is not here, or is there already, is left out."""
        for name in names:
            path = self.folder / name
            if path.exists() and self._known.get(name) != (stamp := _stamp(path)):
                self._tried(name, partial(self._upload, path, name), gone_ok=False)
                self._known[name] = stamp

    def sync(self, under: str = "") -> None:
        """Push what is new or changed in one folder, then delete there what was deleted here; others' files stay."""
        folder = self.folder / under
        paths = sorted(path for path in folder.glob("*") if path.is_file() and _is_shared(path.name))
        here = dict.fromkeys(self._name(path) for path in paths)
        self.push(*here)
        gone = [name for name in self._known if self._parent(name) == under and name not in here]
        self.delete(*gone)

    def delete(self, *names: str) -> None:
        """Delete files on the store; one that is not there is none."""
        for name in names:
            self._known.pop(name, None)
            try:
                self._tried(name, partial(self._store.delete_file, self._there(name)))
            except FileNotFoundError:
                continue

    def copy(self, source: str, target: str) -> None:
        """Give a file on the store a second name."""
        self._tried(target, partial(self._store.copy_file, self._there(source), self._there(target)), gone_ok=False)

    def read(self, name: str) -> str | None:
        """The text of a small file; None if it is not there."""
        try:
            return self._tried(name, partial(self._read, name))
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        self._tried(name, partial(self._write, name, text), gone_ok=False)

    # One request each

    def _listed(self, under: str, recursive: bool) -> list[tuple[str, bool]]:
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._there(under), allow_not_found=True, recursive=recursive)
        found = self._tried(under, partial(self._store.get_file_info, selector))
        return sorted((info.path[len(self._base) + 1 :], info.type == FileType.File) for info in found)

    def _download(self, name: str, path: Path) -> None:
        with self._store.open_input_stream(self._there(name)) as there, path.open("wb") as here:
            shutil.copyfileobj(there, here, BLOCK)

    def _upload(self, path: Path, name: str) -> None:
        with path.open("rb") as here, self._store.open_output_stream(self._there(name)) as there:
            shutil.copyfileobj(here, there, BLOCK)

    def _read(self, name: str) -> str:
        with self._store.open_input_stream(self._there(name)) as there:
            return bytes(there.read()).decode()

    def _write(self, name: str, text: str) -> None:
        with self._store.open_output_stream(self._there(name)) as there:
            there.write(text.encode())

    def _tried(self, name: str, action: Callable[[], Result], *, gone_ok: bool = True) -> Result:
        """Raises FileNotFoundError, if that is an answer (`gone_ok`), or CheckpointError."""
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except OSError as error:
                if gone_ok and isinstance(error, FileNotFoundError):
                    raise
                log.warning("%s: %s", self.address_of(name), reason(error))
                failure = error
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
        raise CheckpointError(
            f"the store does not do what it is asked for at {self.address_of(name)}: {reason(failure)}. {ADVICE} "
            "What is there is whole; go on with `raytune-m2f resume`."
        ) from failure

    def _there(self, name: str) -> str:
        return f"{self._base}/{name}".rstrip("/")

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    @staticmethod
    def _parent(name: str) -> str:
        return name.rpartition("/")[0]


def _is_shared(name: str) -> bool:
    return not name.startswith(".") or name in SHARED_NOTES


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _scratch(owner: Mirror) -> Path:
    """A folder that lives as long as its owner; those of processes that were killed are deleted."""
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
    return folder


def _sweep(lock: Path) -> None:
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
            lock.unlink(missing_ok=True)
    except OSError:  # its owner lives, or somebody else swept it
        return


def _discard(file: IO[str], lock: Path, process: int) -> None:
    if os.getpid() == process:  # not in a process that was forked from the owner's
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
    file.close()
