from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raytune_m2f.errors import DatasetError, InputError, TrainingError
from raytune_m2f.launch.place import Place
from raytune_m2f.storage.files import sealed_yaml
from raytune_m2f.training.trial_dir import add_to_log, log_tail, read_failure, require_own, write_failure


def test_everything_that_is_said_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with Place.at(tmp_path / "0007").held():
        logging.getLogger("raytune_m2f.test").info("step %d", 3)
        os.write(2, b"a library's own words\n")
    sys.stderr.write("afterwards\n")
    text = (tmp_path / "0007" / "log.txt").read_text()
    assert "INFO raytune_m2f.test: step 3" in text
    assert "a library's own words" in text
    assert capfd.readouterr().err == "afterwards\n"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with Place.at(tmp_path).held():
        with pytest.raises(TrainingError, match="another process has been training"), Place.at(tmp_path).held(wait=0.0):
            pass
        with Place.at(tmp_path).held(rank=1, wait=0.0):  # another worker of the same trial
            pass
    with Place.at(tmp_path).held(wait=0.0):
        pass


HOLDER = """
import sys, time
from raytune_m2f.launch.place import Place
with Place.at(sys.argv[1]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_user_hears_at_once_who_trains_there(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "locked\n"
        told = rf"another process \({holder.pid} on .*\) trains in {tmp_path}\."
        with pytest.raises(InputError, match=told):
            Place.at(tmp_path).require_unlocked()
        with pytest.raises(InputError, match=told), Place.at(tmp_path).locked(interactive=True):
            pass
        holder.kill()
        holder.wait()
    Place.at(tmp_path).require_unlocked()  # the lock is gone with its holder


def test_the_children_of_a_killed_process_are_waited_for(tmp_path: Path) -> None:
    """They hold its lock until they notice; the process that the lock names is none any more."""
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    with Place.at(tmp_path).locked():
        (tmp_path / ".lock").write_text(f"{gone.pid} {socket.gethostname()}")
        with pytest.raises(TrainingError, match="for 0 s"), Place.at(tmp_path).locked(wait=0.0, interactive=True):
            pass
        (tmp_path / ".lock").write_bytes(b"\xff\xfe 1")
        with pytest.raises(InputError, match="trains in"), Place.at(tmp_path).locked(interactive=True):
            pass


def test_nothing_is_made_where_nobody_trains(tmp_path: Path) -> None:
    Place.at(tmp_path / "new").require_unlocked()
    assert not (tmp_path / "new").exists()


def test_a_storage_without_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(file: object, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    with Place.at(tmp_path).locked(interactive=True):
        assert "cannot be locked" in caplog.text


def test_our_own_errors_need_no_trace_others_do(tmp_path: Path) -> None:
    assert read_failure(tmp_path) is None
    write_failure(tmp_path, DatasetError("annotation 7"))
    assert read_failure(tmp_path) == {"error_type": "DatasetError", "cause": "annotation 7", "traceback": ""}
    try:
        raise KeyError("key")
    except KeyError as error:
        write_failure(tmp_path, error)
    failure = read_failure(tmp_path)
    assert failure is not None
    assert failure["error_type"] == "KeyError"
    assert "test_launch_trial_dir.py" in failure["traceback"]


def test_the_tail_of_the_log(tmp_path: Path) -> None:
    assert log_tail(tmp_path) == []
    for number in range(5000):
        add_to_log(tmp_path, f"line {number}\n")
    assert log_tail(tmp_path, lines=2) == ["line 4998", "line 4999"]


@pytest.mark.parametrize(
    "content",
    [b"[1]", b"{}", b"null", b"\xff", b"{", b'{"error_type": 1}', b'{"error_type": "E", "cause": [1]}', b"[" * 200_000],
)
def test_a_damaged_record_of_a_failure_is_none_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "failure.json").write_bytes(content)
    assert read_failure(tmp_path) is None
    assert "failure.json" in caplog.text


def test_an_empty_failure_was_not_pulled_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "failure.json").touch()
    assert read_failure(tmp_path) is None
    assert not caplog.text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "failure.json", "checkpoints/best.pth", ".ray/file"])
def test_a_new_run_does_not_begin_on_files_of_the_users(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine: true\n")
    with pytest.raises(InputError, match=f"--output: .*{name.removesuffix('/file')} would be written over"):
        require_own(tmp_path, "--output")


def test_a_new_run_may_begin_beside_other_files_or_where_one_was_killed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    require_own(tmp_path, "--output")
    require_own(tmp_path / "new", "--output")
    (tmp_path / "config.yaml").write_text(sealed_yaml("SEED: 1\n"))
    (tmp_path / "metrics.jsonl").touch()
    require_own(tmp_path, "--output")
