"""A folder on a store and its copy here, what goes wrong between them, and the same in a directory."""

from __future__ import annotations

import fcntl
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_store import ADDRESS, FakeStore

from raytune_m2f.errors import CheckpointError
from raytune_m2f.storage.folder import Folder
from raytune_m2f.storage.object_store import ObjectStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return FakeStore(tmp_path / "store", monkeypatch)


@pytest.fixture
def mirror(store: FakeStore) -> Folder:
    return Folder.at(ADDRESS)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_is_pushed_is_pulled_elsewhere(mirror: Folder) -> None:
    write(mirror.path, a="1", checkpoints__b="2")
    mirror.push("a", "checkpoints/b", "not here")
    other = Folder.at(ADDRESS)
    assert other.names(recursive=True) == ["a", "checkpoints/b"]
    other.pull("a", "checkpoints/b", "nowhere")
    assert (other.path / "checkpoints/b").read_text() == "2"
    assert sorted(path.name for path in other.path.iterdir()) == ["a", "checkpoints"]


def test_a_pull_takes_away_what_is_there_no_more(mirror: Folder) -> None:
    write(mirror.path, a="1")
    mirror.push("a")
    Folder.at(ADDRESS).delete("a", "a")
    mirror.pull("a")
    assert not (mirror.path / "a").exists()


def test_a_sync_pushes_changes_then_deletes_and_leaves_what_others_put_there(store: FakeStore, mirror: Folder) -> None:
    write(mirror.path, a="1", b="2", _dot_lock="", _dot_micro_batch="4", checkpoints__c="3")
    mirror.sync()
    assert store.files() == [".micro_batch", "a", "b"]
    ObjectStore.at(ADDRESS).write("stop", "")
    write(mirror.path, a="11", d="4")
    (mirror.path / "b").unlink()
    mirror.sync()
    assert store.files() == [".micro_batch", "a", "d", "stop"]
    assert (store.root / "bucket/study/a").read_text() == "11"
    mirror.sync("checkpoints")
    assert "checkpoints/c" in store.files()


def test_what_is_there_already_is_not_pushed_again(store: FakeStore, mirror: Folder) -> None:
    write(mirror.path, a="1")
    mirror.sync()
    other = Folder.at(ADDRESS)
    other.pull("a")
    assert store.files_there.writes == 1
    mirror.sync()
    other.sync()
    assert store.files_there.writes == 1


def test_an_outline_has_the_names_and_no_contents(mirror: Folder) -> None:
    write(mirror.path, trials__0000__best="much")
    mirror.push("trials/0000/best")
    other = Folder.at(ADDRESS)
    write(other.path, trials__0000__gone="x")
    other.outline("trials", recursive=True)
    assert [path.name for path in (other.path / "trials/0000").iterdir()] == ["best"]
    assert (other.path / "trials/0000/best").read_text() == ""
    other.outline("trials", recursive=True, contents=lambda name: name == "trials/0000/best")
    assert (other.path / "trials/0000/best").read_text() == "much"


def test_a_copy_is_made_on_the_store(store: FakeStore, mirror: Folder) -> None:
    write(mirror.path, rung="weights")
    mirror.push("rung")
    mirror.link("rung", "own")
    assert (store.root / "bucket/study/own").read_text() == "weights"
    assert (mirror.path / "own").read_text() == "weights"


def test_a_store_that_answers_late_is_asked_again(store: FakeStore, mirror: Folder) -> None:
    write(mirror.path, a="1")
    store.files_there.faults = iter([OSError("AWS Error SLOW_DOWN"), OSError("AWS Error SLOW_DOWN")])
    mirror.push("a")
    assert ObjectStore.at(ADDRESS).read("a") == "1"


def test_a_store_that_does_not_answer_is_one_error(store: FakeStore, mirror: Folder) -> None:
    write(mirror.path, a="1")
    denied = OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied\nand more")
    store.files_there.faults = itertools.repeat(denied)
    with pytest.raises(CheckpointError, match=f"{ADDRESS}/a: AWS Error ACCESS_DENIED .* Access Denied\\. Check the"):
        mirror.push("a")


def test_a_directory_is_as_a_store_whose_files_are_here_already(tmp_path: Path, mirror: Folder) -> None:
    here = Folder.at(tmp_path / "here")
    for folder in (here, mirror):
        write(folder.path, a="1", b="2", trials__0007__c="3")
        folder.push("a", "b", "trials/0007/c")
        folder.sync()
        folder.pull("a")
        folder.link("a", "d")
        folder.delete("b", "nothing")
        folder.move("trials/0007", "set_aside/0007-1")
        folder.outline(recursive=True)
        assert folder.names() == ["a", "d"]
        assert folder.names(recursive=True) == ["a", "d", "set_aside/0007-1/c"]
        assert folder.exists("a")
        assert not folder.exists("b")
        assert [(folder.path / name).read_text() for name in ("a", "d")] == ["1", "1"]
        assert folder.address_of("a") == f"{folder.address}/a"
    assert Folder.at(tmp_path, "here").path == here.path


HOLDER = """
import os
from raytune_m2f.storage.folder import Mirror
from raytune_m2f.storage.object_store import ObjectStore
store = ObjectStore(None, "bucket/study", "s3://bucket/study")
print(Mirror(store).path, flush=True)
kept = Mirror(store)
print(kept.path, flush=True)
os.kill(os.getpid(), 9)
"""


def test_copies_go_with_their_object_or_after_their_killed_process(mirror: Folder) -> None:
    gone, left = subprocess.run(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.split()
    assert not Path(gone).exists()
    assert Path(left).exists()
    Folder.at(ADDRESS)
    assert not Path(left).exists()
    assert mirror.path.exists()
    (mirror.path.parents[1] / "a.lock").touch()  # of a process that was killed before it made its folder
    Folder.at(ADDRESS)
    assert [path.name for path in mirror.path.parents[1].glob("*.lock")] == [f"{mirror.path.parent.name}.lock"]
    assert oct(os.stat(mirror.path.parents[1]).st_mode & 0o777) == "0o700"


def test_a_copy_that_is_just_being_made_is_not_swept(mirror: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, root = fcntl.flock, mirror.path.parents[1]
    others: list[Folder] = []

    def slow_flock(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX:  # another process makes its own copy right before this lock
            monkeypatch.setattr(fcntl, "flock", flock)
            others.append(Folder.at(ADDRESS))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    made = [mirror, Folder.at(ADDRESS), *others]
    assert len(others) == 1
    assert {path.stem for path in root.glob("*.lock")} == {copy.path.parent.name for copy in made}
