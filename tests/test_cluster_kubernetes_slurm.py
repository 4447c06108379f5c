"""cluster/: the manifest for KubeRay, its image, the scripts for Slurm and for spot nodes; none needs a cluster."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from patience import PATIENCE_S
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {"raytune_m2f", "model", "configs", "search_spaces"}  # the others by links in the first
FOLDER = REPOSITORY / "cluster"
DOCKERFILE = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
SLURM = FOLDER / "slurm.sh"
MOUNT = "/mnt/shared"
# of the environment that runs the tests, whether or not it is activated; else of the machine
SHELLCHECK = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")


@pytest.fixture
def manifests() -> dict[str, dict[str, Any]]:
    """The manifests by their kind."""
    text = (FOLDER / "kuberay.yaml").read_text(encoding="utf-8")
    return {manifest["kind"]: manifest for manifest in yaml.safe_load_all(text)}


@pytest.fixture
def spec(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The cluster of the RayJob."""
    found: dict[str, Any] = manifests["RayJob"]["spec"]["rayClusterSpec"]
    return found


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]]


def constraint(name: str) -> str:
    text = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{name}==(\S+)", text, flags=re.MULTILINE)
    assert found
    return found[1]


def test_the_autoscaler_of_ray_reads_the_cluster(spec: dict[str, Any]) -> None:
    derived = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "first", "namespace": "default"}, "spec": spec}
    )
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(derived, json.loads(schema.read_text(encoding="utf-8")))
    validate_config(prepare_config(derived))
    types = derived["available_node_types"]
    assert types["headgroup"]["resources"]["CPU"] == 0  # no trial runs there
    assert "GPU" not in types["headgroup"]["resources"]
    assert (types["gpu"]["min_workers"], types["gpu"]["max_workers"]) == (0, 4)
    assert types["gpu"]["resources"]["GPU"] == 1
    assert derived["idle_timeout_minutes"] == 10


def test_versions_are_those_of_the_image(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == constraint("ray")
    assert f"FROM python:{sys.version_info[0]}." in DOCKERFILE
    assert '--constraint /src/constraints.txt "/src[cluster,pretrained]"' in DOCKERFILE
    tag = re.search(r"--tag REGISTRY/(\S+)", DOCKERFILE)
    assert tag
    assert {container["image"] for pod in pods(spec) for container in pod["containers"]} == {
        f"registry-FILL-IN/{tag[1]}"
    }


def test_every_pod_has_the_storage(manifests: dict[str, dict[str, Any]], spec: dict[str, Any]) -> None:
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(spec):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["shared"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts["shared"] == MOUNT
        assert mounts.keys() == volumes.keys()


def test_the_job_runs_commands_that_there_are(manifests: dict[str, dict[str, Any]]) -> None:
    from typer.testing import CliRunner

    from raytune_m2f.cli.main import app

    job = manifests["RayJob"]["spec"]
    assert yaml.safe_load(job["runtimeEnvYAML"]).keys() == {"env_vars"}
    assert job["metadata"]["study"] in job["entrypoint"]
    lines = [job["entrypoint"], *SLURM.read_text(encoding="utf-8").splitlines()]
    for command in ("resume", "tune"):
        shown = CliRunner().invoke(app, [command, "--help"], env={"TERMINAL_WIDTH": "200"}).stdout
        used = [found for line in lines for found in re.findall(rf"raytune-m2f {command} ([^|']*)", line)]
        assert len(used) == 2  # one in each
        for words in used:
            assert set(re.findall(r"--[a-z-]+", words)) <= set(re.findall(r"--[a-z-]+", shown))


def test_the_image_has_all_that_an_installation_needs() -> None:
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, flags=re.MULTILINE) for word in line.split()}
    assert copied == {*PACKAGES, "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"}
    assert all((REPOSITORY / name).exists() for name in copied)


@pytest.mark.skipif(shutil.which("bash") is None, reason="it is bash's")
def test_the_script_is_valid_and_asks_for_what_it_needs() -> None:
    assert subprocess.run(["bash", "-n", str(SLURM)], capture_output=True).returncode == 0
    asked = subprocess.run(["bash", str(SLURM)], capture_output=True, text=True)
    assert asked.returncode == 2
    assert asked.stderr.startswith("usage: sbatch ")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda path: path.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    checked = subprocess.run([str(SHELLCHECK), str(script)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_the_script_gives_symmetric_run_what_it_takes() -> None:
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    line = re.search(r"ray symmetric-run (.*?) -- ", SLURM.read_text(encoding="utf-8").replace("\\\n", " "))
    assert line
    words = re.sub(r'"\$[^"]*"', "1", line[1]).split()
    left = curate_and_validate_ray_start_args(words)
    assert [word.partition("=")[0] for word in left] == ["--num-cpus", "--num-gpus", "--temp-dir"]


class Metadata(BaseHTTPRequestHandler):
    """Stands for AWS's: a token to those who ask for one, and a notice the second time that they look."""

    looks = 0

    def do_PUT(self) -> None:
        self._answer(200 if "X-aws-ec2-metadata-token-ttl-seconds" in self.headers else 400)

    def do_GET(self) -> None:
        Metadata.looks += self.path == "/meta-data/spot/instance-action"
        self._answer(200 if self.headers["X-aws-ec2-metadata-token"] == "token" and Metadata.looks > 1 else 404)

    def _answer(self, code: int) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(b"token")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.skipif(shutil.which("curl") is None, reason="it asks by curl")
def test_a_notice_of_aws_drains_the_node(tmp_path: Path) -> None:
    from ray.scripts.scripts import drain_node

    ray = tmp_path / "ray"
    ray.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    ray.chmod(0o755)
    server = HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = {"METADATA": f"http://127.0.0.1:{server.server_port}", "EVERY": "0.01", "RAY_ADDRESS": "head:6379"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    try:
        done = subprocess.run(
            ["bash", str(FOLDER / "spot_notice.sh")],
            env={**here, "PATH": path},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
    finally:
        server.shutdown()
        server.server_close()
    command, *words = done.stdout.splitlines()
    assert (command, Metadata.looks) == ("drain-node", 2)
    asked = drain_node.make_context("drain-node", words).params  # as Ray reads it
    assert asked["address"] == "head:6379"
    assert asked["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert 0 < asked["deadline_remaining_seconds"] < 120


@pytest.mark.parametrize("name", ["kuberay.yaml", "slurm.sh", "spot_notice.sh", "Dockerfile"])
def test_holds_no_secret(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_access_key|password|PRIVATE KEY", text, flags=re.IGNORECASE)
    assert not re.search(r"AUTH_TOKEN", text)  # made on the cluster, never written down
