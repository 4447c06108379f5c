"""The folder of a study or a run, in a directory or on an object store (s3://, gs://), behind one interface.

All code works on local files: what it reads is pulled before, what it wrote is pushed after. In a directory, where the
files are already, `pull`, `push` and the like do nothing; on a store they keep a working copy and the store the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from raytune_m2f.storage.address import is_address
from raytune_m2f.storage.files import link
from raytune_m2f.storage.lease import FileLock, Lease, Lock
from raytune_m2f.storage.object_store import ObjectStore
from raytune_m2f.storage.temporary import working_copy

Stamp = tuple[int, int, int]
SHARED_NOTES = (".micro_batch", ".placement_group", ".node")
"""Other hidden files are this machine's own."""


def no_contents(name: str) -> bool:
    """The `contents` of an outline of names alone."""
    return False


class Folder:
    """A folder in a directory. Names of files and folders in it are relative to it, with `/`.

    Attributes:
        path: where its files are on this machine; absolute.
        address: what the user calls it.
    """

    def __init__(self, path: Path, address: str | None = None) -> None:
        self.path = path
        self.address = address or str(path)

    @staticmethod
    def at(where: str | os.PathLike[str], *within: str) -> Folder:
        """The folder at a path, which need not exist, or at the address of a store; or one below it.

        Raises:
            InputError: the address is wrong or holds a password, or its bucket does not answer.
        """
        if is_address(where):
            return Mirror(ObjectStore.at(os.fspath(where), *within))
        return Folder(Path(where).expanduser().absolute().joinpath(*within))

    def address_of(self, name: str) -> str:
        """Where the user finds a file or a folder in this one."""
        return str(self.path / name)

    def name_of(self, path: Path) -> str:
        """The name of what is at a path on this machine."""
        return path.relative_to(self.path).as_posix()

    def names(self, under: str = "", *, recursive: bool = False) -> list[str]:
        """The files that are there, in one folder or also below it, in order."""
        paths = (self.path / under).glob("**/*" if recursive else "*")
        return sorted(self.name_of(path) for path in paths if path.is_file())

    def exists(self, name: str) -> bool:
        """Whether a file is there now."""
        return (self.path / name).exists()

    def outline(
        self, under: str = "", *, recursive: bool = False, contents: Callable[[str], bool] = no_contents
    ) -> None:
        """Have the same files here as there: a new one is empty, unless its name is among the `contents` to pull."""

    def pull(self, *names: str) -> None:
        """Bring files here up to date; one that is not there is not here either then."""

    def push(self, *names: str) -> None:
        """Bring files there up to date; one that is not here, or is there already, is left out."""

    def sync(self, under: str = "") -> None:
        """Push what is new or changed in one folder, then delete there what was deleted here; others' files stay."""

    def delete(self, *names: str) -> None:
        """Delete files here and there; one that does not exist is none."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name; its content is never changed, only replaced. A target that exists stays."""
        link(self.path / source, self.path / target)

    def move(self, source: str, target: str) -> None:
        """Give a folder another name, which must be free."""
        (self.path / target).parent.mkdir(parents=True, exist_ok=True)
        (self.path / source).rename(self.path / target)

    def lock(self, name: str) -> Lock:
        """The right to be the only one who writes here, kept in the file `name`."""
        return FileLock(self.path / name)


class Mirror(Folder):
    """A folder on a store, and a working copy of it under TMPDIR, which goes with this object or its killed process."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(working_copy(self, store.name), store.address)
        self.store = store
        self._pushed: dict[str, Stamp] = {}  # the files here that are on the store as they are

    def address_of(self, name: str) -> str:
        return self.store.address_of(name)

    def names(self, under: str = "", *, recursive: bool = False) -> list[str]:
        return [name for name, is_file in self.store.listing(under, recursive=recursive) if is_file]

    def exists(self, name: str) -> bool:
        return self.store.modified(name) is not None

    def outline(
        self, under: str = "", *, recursive: bool = False, contents: Callable[[str], bool] = no_contents
    ) -> None:
        listing = self.store.listing(under, recursive=recursive)
        there = {name for name, is_file in listing if is_file}
        folder = self.path / under
        for path in [path for path in folder.glob("**/*" if recursive else "*") if path.is_file()]:
            if not path.name.startswith(".") and self.name_of(path) not in there:
                path.unlink()
        for name, is_file in listing:
            path = self.path / name
            (path.parent if is_file else path).mkdir(parents=True, exist_ok=True)
            if is_file:
                path.touch()
        self.pull(*filter(contents, sorted(there)))

    def pull(self, *names: str) -> None:
        for name in names:
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.store.download(name, path)
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                self._pushed.pop(name, None)
                continue
            self._pushed[name] = _stamp(path)

    def push(self, *names: str) -> None:
        for name in names:
            path = self.path / name
            if path.exists() and self._pushed.get(name) != (stamp := _stamp(path)):
                self.store.upload(path, name)
                self._pushed[name] = stamp

    def sync(self, under: str = "") -> None:
        paths = sorted(path for path in (self.path / under).glob("*") if path.is_file() and _is_shared(path.name))
        here = dict.fromkeys(self.name_of(path) for path in paths)
        self.push(*here)
        self.delete(*(name for name in [*self._pushed] if name.rpartition("/")[0] == under and name not in here))

    def delete(self, *names: str) -> None:
        for name in names:
            super().delete(name)
            self._pushed.pop(name, None)
            self.store.delete(name)

    def link(self, source: str, target: str) -> None:
        if not (self.path / target).exists():
            self.store.copy(source, target)
        super().link(source, target)

    def move(self, source: str, target: str) -> None:
        for name in self.names(source, recursive=True):
            self.store.copy(name, target + name.removeprefix(source))
            self.store.delete(name)
        super().move(source, target)

    def lock(self, name: str) -> Lock:
        return Lease(self.store, name)


def _is_shared(name: str) -> bool:
    return not name.startswith(".") or name in SHARED_NOTES


def _stamp(path: Path) -> Stamp:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
