"""Jobs on a real cluster: two Ray nodes on this machine that want a token, and clients that are killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_until

from raytune_m2f.config import Config
from raytune_m2f.study.status import study_status

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef" * 4
Client = Callable[..., subprocess.CompletedProcess[str]]


def free_ports(count: int) -> list[int]:
    """Ports that are free now, outside the range from which Ray takes those of its workers."""
    found = [socket.socket() for _ in range(count)]
    for each in found:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in found]
    for each in found:
        each.close()
    return ports


def environment() -> dict[str, str]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    return {
        **outside, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "COLUMNS": "300",
        "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip


def start_node(folder: Path, *options: str) -> subprocess.Popen[bytes]:
    """`ray start` in a process group of its own; it ends the node's processes when it is ended."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--temp-dir={folder}"]
    room = ["--num-cpus=1", "--object-store-memory=100000000", "--disable-usage-stats"]
    return subprocess.Popen(
        [*command, *room, *options], env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The dashboard of a cluster of two nodes with a CPU each."""
    pytest.importorskip("aiohttp_cors", reason="the dashboard comes with ray[default]")
    folder = Path(f"/tmp/m2f_{os.getpid()}")  # sockets lie in it, whose paths may not be long
    gcs, dashboard, *agents = free_ports(8)
    kinds = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
    ports = [[f"--{kind}={port}" for kind, port in zip(kinds, agents[at : at + 3], strict=True)] for at in (0, 3)]
    head = ["--head", f"--port={gcs}", f"--dashboard-port={dashboard}", *ports[0]]
    nodes = [start_node(folder / "head", *head)]
    try:
        wait_until(lambda: listens(gcs) and listens(dashboard), "the head")
        # a folder of its own: two nodes that unpack a job's files to one place take them from each other
        nodes.append(start_node(folder / "node", f"--address=127.0.0.1:{gcs}", *ports[1]))
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        for node in reversed(nodes):
            node.terminate()
            with suppress(subprocess.TimeoutExpired):
                node.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(node.pid, signal.SIGKILL)
        subprocess.run(["rm", "-rf", str(folder)], check=False)


@pytest.fixture
def client(address: str) -> Client:
    """Run a command of ours for the cluster; `environ` changes its environment."""

    def run(command: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "raytune_m2f", command, "--address", address, *words],
            env={**environment(), **environ}, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip

    return run


@pytest.fixture
def config_file(tiny_config: Config, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_config.with_values({"SOLVER.MAX_ITER": 40, "TEST.EVAL_PERIOD": 10}).to_yaml())
    return path


def listens(port: int) -> bool:
    with suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def reports(study: Path) -> int:
    return sum(len(file.read_text().splitlines()) for file in study.glob("trials/*/metrics.jsonl"))


def test_a_study_outlives_its_client_is_stopped_and_goes_on(
    address: str, client: Client, config_file: Path, tmp_path: Path
) -> None:
    study = tmp_path / "first"
    tune = ["tune", "--config", str(config_file), "--space", "learning_rate", "--study", str(study), "--trials", "4"]
    sender = subprocess.Popen(
        [sys.executable, "-m", "raytune_m2f", "submit", "--address", address, "--follow", "--", *tune],
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert sender.stdout is not None
    job = sender.stdout.readline().split()[-2]
    assert [sender.stdout.readline().split(":")[0] for _ in range(3)] == ["status", "stop", "resume"]
    sender.kill()  # SIGKILL
    sender.communicate()

    wait_until(lambda: reports(study) >= 3, "reports")
    stopped = client("stop", str(study))
    assert stopped.stdout.split() == f"the job {job} has ended: STOPPED".split(), stopped.stderr
    assert "interrupted; what was finished is kept" in client("logs", job).stdout
    kept = reports(study)
    seen = client("status", str(study))
    assert "unfinished" in seen.stdout, seen.stderr
    assert study_status(study).driver is None

    resumed = client("submit", "--follow", "--", "resume", str(study))
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "export the best trial" in resumed.stdout
    trials = study_status(study).trials
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {"complete", "stopped"}
    assert reports(study) > kept


def test_a_wrong_token_and_a_missing_study_are_one_error(client: Client, tmp_path: Path) -> None:
    for wrong in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        refused = client("logs", "any", **wrong)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert "does not let us in" in refused.stderr
    missing = client("status", str(tmp_path / "none"))
    assert missing.returncode == 2, missing.stderr
    assert missing.stderr.startswith(f"error: {tmp_path}/none is no study directory")
    assert missing.stderr.count("\n") == 1
