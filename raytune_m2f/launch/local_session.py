"""A Ray session of our own on this machine: on the loopback interface alone, its token private, its sockets short."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray._private import ray_constants

from raytune_m2f.storage.temporary import SHORT, short_folder

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 256 * 2**20  # only reports and configurations travel through it
BELOW = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
TOKEN = Path(".ray/auth_token")


@contextmanager
def this_machine_alone() -> Iterator[dict[str, Any]]:
    """The arguments of `ray.init(address="local", ...)`; to be held around the whole session.

    Raises:
        InputError: TMPDIR is too long, and /tmp cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(_on_loopback())
        stack.enter_context(private_token())
        own: dict[str, Any] = {
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": LOOPBACK,
        }
        given = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT)
        short = short_folder(given, BELOW)
        if short != given:
            own["_temp_dir"] = tempfile.mkdtemp(prefix="ray_", dir=short)
            stack.callback(shutil.rmtree, own["_temp_dir"], ignore_errors=True)
        yield own


def is_alone() -> bool:
    """Whether this process belongs to such a session."""
    return os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR) == "0"


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray takes the machine's outer address even if it is told 127.0.0.1, unless it cannot be part of a cluster.

    It has a switch for that, which it reads when it is imported, and which its processes read from the environment.
    """
    name = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    variables = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0", "GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
    before = {key: os.environ.get(key) for key in variables}
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update({key: value for key, value in variables.items() if before[key] is None or key.startswith("RAY")})
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def private_token() -> Iterator[None]:
    """Ray makes a token for its sessions in ~/.ray, readable for all users: the folder is closed to them.

    Where there is no place for it, the token is in the environment of this process.
    """
    token = Path.home() / TOKEN
    wanted = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    given = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if not wanted or given or token.exists():
        yield
        return
    with suppress(OSError):
        token.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(token.parent, os.W_OK | os.X_OK):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        yield
        return
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            token.chmod(0o600)
