"""The lock and the log of a trial's directory."""

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

from raytune_m2f.errors import InputError, TrainingError
from raytune_m2f.launch.place import Place


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
