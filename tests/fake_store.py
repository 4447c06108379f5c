"""A store in a directory, behind pyarrow as the real ones are; processes whose only way to the driver is the store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_processes import FakeProcesses, Killed, drive
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem, SubTreeFileSystem

from raytune_m2f.drive.driver import Driver
from raytune_m2f.launch.place import Place
from raytune_m2f.storage import lease, object_store
from raytune_m2f.storage.object_store import ObjectStore
from raytune_m2f.study.directory import StudyDirectory

ADDRESS = "s3://bucket/study"


class FaultyFiles(LocalFileSystem):  # type: ignore[misc]  # fsspec is not typed
    """A directory whose files cannot always be written.

    Attributes:
        faults: raised by the next writes, one each.
        writes: how many were tried.
    """

    cachable = False

    def __init__(self) -> None:
        super().__init__(auto_mkdir=True)
        self.faults: Iterator[Exception] = iter(())
        self.writes = 0

    def open(self, path: str, mode: str = "rb", **others: Any) -> Any:
        if "w" in mode:
            self.writes += 1
            for fault in self.faults:
                raise fault
        return super().open(path, mode, **others)


class FakeStore:
    """All addresses lead to one directory until the test ends.

    Attributes:
        root: it has one bucket, `bucket`.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        (root / "bucket").mkdir(parents=True)
        self.files_there = FaultyFiles()
        self.filesystem = SubTreeFileSystem(str(root), PyFileSystem(FSSpecHandler(self.files_there)))
        patch.setattr(object_store, "open_filesystem", self._open)
        patch.setattr(object_store, "PAUSE_S", 0.01)
        patch.setattr(lease, "SETTLE_S", 0.0)

    def _open(self, address: str) -> tuple[Any, str]:
        return self.filesystem, address.partition("://")[2].partition("?")[0]

    def files(self, under: str = "bucket/study") -> list[str]:
        folder = self.root / under
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class RemoteProcesses(FakeProcesses):
    """Each process on a node of its own."""

    def __init__(self, driver: Driver, rng: random.Random, at_once: int = 3, address: str = ADDRESS) -> None:
        super().__init__(driver, rng, at_once)
        self._address = address
        self._places: dict[int, Place] = {}

    def folder(self, number: int) -> Path:
        return self._places[number].path

    def begin(self, number: int) -> Path:
        self._places[number] = Place.at(self._address, "trials", f"{number:04d}")
        self._places[number].pull()
        return self.folder(number)

    def push(self, number: int) -> None:
        self._places[number].push()

    def is_told_to_stop(self, number: int) -> bool:
        return self._places[number].stop_requested()


@contextmanager
def killed_after_requests(count: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill driver and processes before the request to the store that comes after so many."""
    left, request = count, ObjectStore.request

    def counted(self: ObjectStore, name: str, action: Callable[[], Any], **others: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return request(self, name, action, **others)

    with patch.context() as inner:
        inner.setattr(ObjectStore, "request", counted)
        yield


def live_on_store(seed: int, patch: pytest.MonkeyPatch, kills: Iterator[int]) -> Driver:
    """Drive the study to its end, through drivers that are killed after `kills` requests; returns the last."""
    rng = random.Random(seed)
    while True:
        try:
            with killed_after_requests(next(kills), patch):
                driver = drive(StudyDirectory.at(ADDRESS))
                RemoteProcesses(driver, rng).run()
                driver.record.directory.commit()
                return driver
        except Killed:
            continue
