"""cluster.yaml against Ray's own schema and checks; none of it needs a cloud."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = {"raytune_m2f", "model", "configs", "search_spaces"}  # the others by links in the first
TEXT = (REPOSITORY / "cluster.yaml").read_text(encoding="utf-8")
COMMAND_LISTS = (
    "setup_commands",
    "head_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
MOUNT = "/mnt/shared"


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(TEXT)
    return loaded


def workers(cluster: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {k: v for k, v in cluster["available_node_types"].items() if k != cluster["head_node_type"]}


def test_fits_the_schema_of_ray(cluster: dict[str, Any]) -> None:
    schema = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    jsonschema.validate(cluster, json.loads(schema.read_text(encoding="utf-8")))


def test_passes_the_checks_of_ray_with_its_defaults_filled_in(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["docker"] == {}
    assert prepared["available_node_types"]["head"]["max_workers"] == 0  # one head, never a second one


def test_the_schema_refuses_a_misspelt_key(cluster: dict[str, Any]) -> None:
    cluster["idle_timeout"] = 5
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(cluster))


def test_head_has_no_gpu_and_workers_have(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert not re.match(r"[gp]\d", head["node_config"]["InstanceType"])
    assert "InstanceMarketOptions" not in head["node_config"]
    for name, worker in workers(cluster).items():
        assert re.match(r"[gp]\d", worker["node_config"]["InstanceType"]), name


def test_workers_come_and_go_with_spot_first(cluster: dict[str, Any]) -> None:
    for name, worker in workers(cluster).items():
        assert worker["min_workers"] == 0, name  # what costs money is there while a study asks for it
        assert 0 < worker["max_workers"] <= cluster["max_workers"], name
    by_priority = sorted(workers(cluster).values(), key=lambda worker: worker.get("priority", 0), reverse=True)
    markets = [worker["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for worker in by_priority]
    assert markets == ["spot", None]
    assert cluster["idle_timeout_minutes"] > 0


def test_shared_storage_is_mounted_on_every_node(cluster: dict[str, Any]) -> None:
    assert any(f"mount {MOUNT}" in command for command in cluster["setup_commands"])
    assert MOUNT in (REPOSITORY / "docs" / "cluster.md").read_text(encoding="utf-8")


def test_what_the_user_fills_in_stands_where_it_is_used(cluster: dict[str, Any]) -> None:
    used = re.findall(r"\w+-FILL-IN", json.dumps(cluster))
    assert set(used) == {"ami-FILL-IN", "fs-FILL-IN"}


def test_all_that_an_installation_needs_is_sent(cluster: dict[str, Any]) -> None:
    mounts = cluster["file_mounts"]
    for remote, local in mounts.items():
        assert (REPOSITORY / local).exists(), local
        assert remote == f"~/raytune_m2f/{local}"
    needed = {*PACKAGES, "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "NOTICE"}
    assert set(mounts.values()) == {*needed, "cluster/spot_notice.sh"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are bash's")
@pytest.mark.parametrize("key", COMMAND_LISTS)
def test_commands_are_valid_bash(cluster: dict[str, Any], key: str) -> None:
    assert cluster[key]
    for command in cluster[key]:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, f"{command}\n{checked.stderr}"


def test_holds_no_secret() -> None:
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|aws_access_key|password|PRIVATE KEY", TEXT, flags=re.IGNORECASE)
