"""A folder on a store and its copy here; what goes wrong between them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_store import ADDRESS, FakeStore

from raytune_m2f.errors import CheckpointError
from raytune_m2f.storage.mirror import Mirror


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return FakeStore(tmp_path / "store", monkeypatch)


@pytest.fixture
def mirror(store: FakeStore) -> Mirror:
    return Mirror.at(ADDRESS)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_what_is_pushed_is_pulled_elsewhere(mirror: Mirror) -> None:
    write(mirror.folder, a="1", checkpoints__b="2")
    mirror.push("a", "checkpoints/b", "not here")
    other = Mirror.at(ADDRESS)
    assert other.names(recursive=True) == ["a", "checkpoints/b"]
    other.pull("a", "checkpoints/b", "nowhere")
    assert (other.folder / "checkpoints/b").read_text() == "2"
    assert sorted(path.name for path in other.folder.iterdir()) == ["a", "checkpoints"]


def test_a_pull_takes_away_what_is_there_no_more(mirror: Mirror) -> None:
    write(mirror.folder, a="1")
    mirror.push("a")
    Mirror.at(ADDRESS).delete("a", "a")
    mirror.pull("a")
    assert not (mirror.folder / "a").exists()


def test_a_sync_pushes_changes_then_deletes_and_leaves_what_others_put_there(store: FakeStore, mirror: Mirror) -> None:
    write(mirror.folder, a="1", b="2", _dot_lock="", _dot_micro_batch="4", checkpoints__c="3")
    mirror.sync()
    assert store.files() == [".micro_batch", "a", "b"]
    Mirror.at(ADDRESS).write("stop", "")
    write(mirror.folder, a="11", d="4")
    (mirror.folder / "b").unlink()
    mirror.sync()
    assert store.files() == [".micro_batch", "a", "d", "stop"]
    assert (store.root / "bucket/study/a").read_text() == "11"
    mirror.sync("checkpoints")
    assert "checkpoints/c" in store.files()


def test_what_is_there_already_is_not_pushed_again(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    write(mirror.folder, a="1")
    mirror.sync()
    other = Mirror.at(ADDRESS)
    other.pull("a")
    monkeypatch.setattr(Mirror, "_upload", None)
    mirror.sync()
    other.sync()


def test_an_outline_has_the_names_and_no_contents(mirror: Mirror) -> None:
    write(mirror.folder, trials__0000__best="much")
    mirror.push("trials/0000/best")
    other = Mirror.at(ADDRESS)
    write(other.folder, trials__0000__gone="x")
    assert other.outline("trials", recursive=True) == ["trials/0000/best"]
    assert [path.name for path in (other.folder / "trials/0000").iterdir()] == ["best"]
    assert (other.folder / "trials/0000/best").read_text() == ""


def test_a_copy_is_made_on_the_store(store: FakeStore, mirror: Mirror) -> None:
    write(mirror.folder, rung="weights")
    mirror.push("rung")
    mirror.copy("rung", "own")
    assert (store.root / "bucket/study/own").read_text() == "weights"


def test_a_store_that_answers_late_is_asked_again(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    write(mirror.folder, a="1")
    upload, answers = Mirror._upload, [OSError("AWS Error SLOW_DOWN"), OSError("AWS Error SLOW_DOWN")]

    def late(self: Mirror, path: Path, name: str) -> None:
        if answers:
            raise answers.pop()
        upload(self, path, name)

    monkeypatch.setattr(Mirror, "_upload", late)
    mirror.push("a")
    assert mirror.read("a") == "1"


def test_a_store_that_does_not_answer_is_one_error(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise OSError("AWS Error ACCESS_DENIED during PutObject operation: Access Denied\nand more")

    write(mirror.folder, a="1")
    monkeypatch.setattr(Mirror, "_upload", never)
    with pytest.raises(CheckpointError, match=f"{ADDRESS}/a: AWS Error ACCESS_DENIED .* Access Denied\\. Check the"):
        mirror.push("a")


HOLDER = """
import fcntl
import os
from raytune_m2f.storage.mirror import Mirror
print(Mirror(None, "bucket/study", "s3://bucket/study").folder, flush=True)
kept = Mirror(None, "bucket/study", "s3://bucket/study")
print(kept.folder, flush=True)
os.kill(os.getpid(), 9)
"""


def test_copies_go_with_their_object_or_after_their_killed_process(mirror: Mirror) -> None:
    gone, left = subprocess.run(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, check=False
    ).stdout.split()
    assert not Path(gone).exists()
    assert Path(left).exists()
    Mirror.at(ADDRESS)
    assert not Path(left).exists()
    assert mirror.folder.exists()
    (mirror.folder.parents[1] / "a.lock").touch()  # of a process that was killed before it made its folder
    Mirror.at(ADDRESS)
    assert [path.name for path in mirror.folder.parents[1].glob("*.lock")] == [f"{mirror.folder.parent.name}.lock"]
    assert oct(os.stat(mirror.folder.parents[1]).st_mode & 0o777) == "0o700"


def test_a_copy_that_is_just_being_made_is_not_swept(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    flock, root = fcntl.flock, mirror.folder.parents[1]
    others: list[Mirror] = []

    def slow_flock(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX:  # another process makes its own copy right before this lock
            monkeypatch.setattr(fcntl, "flock", flock)
            others.append(Mirror.at(ADDRESS))
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", slow_flock)
    made = [mirror, Mirror.at(ADDRESS), *others]
    assert len(others) == 1
    assert {path.stem for path in root.glob("*.lock")} == {copy.folder.parent.name for copy in made}
