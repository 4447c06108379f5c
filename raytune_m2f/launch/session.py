"""A quiet connection to Ray: to a session of our own on this machine, or to a cluster. Imports Ray when it connects.

Our own session is on the loopback interface alone, its token is private, and its sockets have short paths.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from raytune_m2f.errors import InputError, RaytuneM2FError
from raytune_m2f.storage.temporary import SHORT, short_folder

OBJECT_STORE_BYTES = 256 * 2**20  # only reports and configurations travel through it
BELOW = len("/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
TOKEN = Path(".ray/auth_token")
SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # Ray's: 0 for a session that cannot be part of a cluster
LISTENER_S = 8.0  # a head that cannot be reached within it is not there
WEB_S = 2.0

# Defaults that a user's own environment overrides.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as in the driver
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # of 2 s: how fast the end of a worker is seen
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",  # of 60 s: a number of workers that does not fit any more
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # what a worker prints goes to the trial's log
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table of the experiment even if told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # the record has the cause and the log
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "300",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read back
}


@contextmanager
def ray_session(address: str | None = None) -> Iterator[None]:
    """Connect to Ray and disconnect at the end; a connection that is already there is used and left alone.

    Args:
        address: of a running cluster (`auto`, `HOST:PORT`, `ray://...`), or None for a session of our own on this
            machine, which dies with this process and listens to it alone. Authentication is Ray's own business, by its
            environment variables (RAY_AUTH_MODE, RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH); its defaults are left alone.

    SIGTERM ends what runs within as Ctrl-C does; Ray would end the process on the spot.

    Raises:
        InputError: there is no cluster at the address, or it does not let us in.
        RaytuneM2FError: Ray does not start on this machine.
    """
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    import ray  # reads the environment when it is imported

    if ray.is_initialized():
        yield
        return
    if address is not None:
        require_listener(address)
    with ExitStack() as stack:
        own: dict[str, Any] = {}
        if address is None:
            own = stack.enter_context(this_machine_alone())
        _connect(address, own)
        stack.callback(ray.shutdown)
        with sigterm_as_ctrl_c():
            yield


def require_listener(address: str, web_s: float = WEB_S) -> None:
    """Raises InputError for an address without a listener, or of a web server; Ray itself would try for minutes.

    A web server answers within `web_s` seconds; Ray's own server hangs up, or waits for more.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`; and Ray itself refuses at once what is no address
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENER_S) as connection:
            problem = "a web server does, perhaps Ray's dashboard" if _is_web_server(connection, web_s) else None
    except (OSError, OverflowError) as error:
        problem = str(error)
    if problem is not None:
        raise InputError(
            f"no Ray cluster answers at {address!r}: {problem}. Give HOST:PORT of its head (the port of `ray start "
            "--head`, 6379 by default), or 'auto' on one of its nodes; an http:// address is for `raytune-m2f submit`."
        )


def _is_web_server(connection: socket.socket, timeout: float) -> bool:
    connection.settimeout(timeout)
    try:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(5) == b"HTTP/"
    except OSError:
        return False


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A job that is stopped, or a machine that is shut down, sends SIGTERM: trials are ended in order then too."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only there are signals heard
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        # called, not sent: a job's driver has SIGINT blocked by Ray
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def handlers_restored(*signals: int) -> Iterator[None]:
    """Put back what handled these signals before: Tune leaves its own handler, which swallows the next Ctrl-C."""
    before = {number: signal.getsignal(number) for number in signals}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _connect(address: str | None, own: dict[str, Any]) -> None:
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # its own files are of no use to us, nor their errors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray about itself
        try:
            ray.init(
                # `local`: never some cluster that happens to run on this machine or is named in RAY_ADDRESS
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **own,
            )
        except Exception as error:  # Ray's are of many kinds, of which a plain Exception is one
            if address is None:
                raise RaytuneM2FError(
                    f"Ray does not start on this machine: {error} Is it overloaded, or its memory or its disk full? "
                    "Try again; Ray's own logs are in /tmp/ray/session_latest/logs, or under RAY_TMPDIR."
                ) from error
            raise InputError(
                f"no Ray cluster answers at {address!r}: {error}. Is it the port of Ray's head, "
                "and do RAY_AUTH_MODE and RAY_AUTH_TOKEN give the token, if it wants one?"
            ) from error


# A session of our own


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
            "_node_ip_address": "127.0.0.1",
        }
        given = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or SHORT)
        short = short_folder(given, BELOW)
        if short != given:
            own["_temp_dir"] = tempfile.mkdtemp(prefix="ray_", dir=short)
            stack.callback(shutil.rmtree, own["_temp_dir"], ignore_errors=True)
        yield own


def is_alone() -> bool:
    """Whether this process belongs to such a session."""
    return os.environ.get(SWITCH) == "0"


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Ray takes the machine's outer address even if it is told 127.0.0.1, unless it cannot be part of a cluster.

    It has a switch for that, which it reads when it is imported, and which its processes read from the environment.
    """
    from ray._private import ray_constants

    name = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "lo")
    variables = {SWITCH: "0", "GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": name}
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
