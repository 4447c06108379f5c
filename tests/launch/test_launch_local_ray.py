"""A session on this machine: nobody listens to the network, its token is private, and a long TMPDIR does no harm."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import fake_study
import pytest
import ray
from fake_study import FakeTraining, config

from raytune_m2f.errors import InputError
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.local_session import BELOW, TOKEN, is_alone, private_token, this_machine_alone
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.workers import train_on_workers
from raytune_m2f.storage import temporary as sockets
from raytune_m2f.storage.temporary import LONGEST, keep_multiprocessing_short, short_folder
from raytune_m2f.training.reports import SEGM_AP, Report

ray.cloudpickle.register_pickle_by_value(fake_study)  # its folder is not on the workers' path
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
"""127.0.0.1, ::1, and the first within IPv6, as /proc/net has them."""


def descendants(process: int) -> list[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def listening(processes: list[int]) -> list[str]:
    """The addresses that they listen at, as /proc/net has them."""
    own = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            try:
                own.add(os.readlink(descriptor))
            except OSError:
                continue
    lines = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    return [line[1].partition(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in own]


@pytest.mark.filterwarnings("ignore:::ray")
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_nothing_listens_to_the_network_not_even_two_workers(tmp_path: Path) -> None:
    heard: list[str] = []

    def listen(report: Report) -> bool:
        heard.extend(listening(descendants(os.getpid())))
        return True

    train_on_workers(
        TrialJob(config(), (SEGM_AP,), workers=(2, 2), function=FakeTraining()), Place.at(tmp_path), listen
    )
    assert len(heard) > 5
    assert set(heard) <= set(LOOPBACK)
    assert not (tmp_path / ".ray").exists()


def test_what_was_set_for_the_session_is_taken_back(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "own0")
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    before = dict(os.environ)
    with this_machine_alone():
        assert is_alone()
        assert os.environ["GLOO_SOCKET_IFNAME"] == "own0"
    assert dict(os.environ) == before
    assert not is_alone()


def test_a_token_that_ray_makes_is_for_nobody_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / TOKEN
    with private_token():
        assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700  # before there is a token
        token.write_text("secret")
        token.chmod(0o644)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    token.chmod(0o640)
    with private_token():
        pass
    assert stat.S_IMODE(token.stat().st_mode) == 0o640  # somebody's own


def test_without_a_place_for_a_token_it_is_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x")
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    with private_token():
        assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def long_folder(folder: Path) -> Path:
    """One whose path has more characters than a socket's may have."""
    while len(str(folder)) <= LONGEST:
        folder = folder / "scratch_of_a_job"
    folder.mkdir(parents=True)
    return folder


def test_ray_has_its_sockets_where_there_is_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(long_folder(tmp_path / "t")))
    with this_machine_alone() as own:
        folder = Path(own["_temp_dir"])
        assert len(str(folder)) + BELOW - len("/ray") <= LONGEST
    assert not folder.exists()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    with this_machine_alone() as own:
        assert "_temp_dir" not in own


def test_where_there_is_no_room_the_path_and_the_cure_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sockets, "SHORT", tmp_path / "no")
    folder = long_folder(tmp_path / "t")
    with pytest.raises(InputError, match=rf"TMPDIR is {folder}, of {len(str(folder))} characters.*Set TMPDIR and RAY"):
        short_folder(folder, 30)
    assert short_folder(Path("/t"), 30) == Path("/t")


LOADS = """
import tempfile
from pathlib import Path
from torch.utils.data import DataLoader
from raytune_m2f.storage.temporary import keep_multiprocessing_short
if __name__ == "__main__":
    keep_multiprocessing_short()
    loader = DataLoader([1, 2], num_workers=1, multiprocessing_context="forkserver")
    print(sum(int(batch) for batch in loader), tempfile.gettempdir(), flush=True)
"""


def test_images_are_loaded_where_tmpdir_is_long_and_nothing_is_left(tmp_path: Path) -> None:
    folder = long_folder(tmp_path)
    (tmp_path / "loads.py").write_text(LOADS)
    before = set(Path("/tmp").glob("pymp-*"))
    ran = subprocess.run(
        [sys.executable, tmp_path / "loads.py"],
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == f"3 {folder}\n"
    assert set(Path("/tmp").glob("pymp-*")) <= before
    assert list(folder.iterdir()) == []


def test_a_short_tmpdir_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/t")
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: pytest.fail("not asked for"))
    keep_multiprocessing_short()
