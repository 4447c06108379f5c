"""A quiet connection to Ray: to a session of our own on this machine, or to an existing cluster.

Ray is imported only where it connects.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from raytune_m2f.errors import InputError, RaytuneM2FError

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
            from raytune_m2f.launch.local_session import this_machine_alone

            own = stack.enter_context(this_machine_alone())
        _connect(address, own)
        stack.callback(ray.shutdown)
        with sigterm_as_ctrl_c():
            yield


def require_listener(address: str, web_s: float = WEB_S) -> None:
    """Refuse an address without a listener, or of a web server; Ray itself would try for minutes.

    Args:
        web_s: a web server answers sooner [s]; Ray's own server hangs up, or waits for more.

    Raises:
        InputError: naming the address, and what to give.
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
