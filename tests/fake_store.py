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
from raytune_m2f.storage import address as store
from raytune_m2f.storage import lease as remote
from raytune_m2f.storage import mirror
from raytune_m2f.storage.mirror import Mirror
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.training.trial_dir import STOP, pull_trial, push_trial

ADDRESS = "s3://bucket/study"


class FakeStore:
    """All addresses lead to one directory until the test ends.

    Attributes:
        root: it has one bucket, `bucket`.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = root
        (root / "bucket").mkdir(parents=True)
        self.filesystem = SubTreeFileSystem(str(root), PyFileSystem(FSSpecHandler(LocalFileSystem(auto_mkdir=True))))
        patch.setattr(store, "_open", self._open)
        patch.setattr(mirror, "PAUSE_S", 0.01)
        patch.setattr(remote, "SETTLE_S", 0.0)

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
        self._mirrors: dict[int, Mirror] = {}

    def folder(self, number: int) -> Path:
        return self._mirrors[number].folder

    def begin(self, number: int) -> Path:
        self._mirrors[number] = Mirror.at(self._address, "trials", f"{number:04d}")
        pull_trial(self._mirrors[number])
        return self.folder(number)

    def push(self, number: int) -> None:
        push_trial(self._mirrors[number])

    def is_told_to_stop(self, number: int) -> bool:
        return self._mirrors[number].exists(STOP)


@contextmanager
def killed_after_requests(count: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill driver and processes before the request to the store that comes after so many."""
    left, tried = count, Mirror._tried

    def counted(self: Mirror, name: str, action: Callable[[], Any], **others: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return tried(self, name, action, **others)

    with patch.context() as inner:
        inner.setattr(Mirror, "_tried", counted)
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
