"""The connection to Ray: an address where nobody listens is one error at once, and SIGTERM is like Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raytune_m2f.errors import InputError
from raytune_m2f.launch.session import ray_session, require_listener, sigterm_as_ctrl_c


def test_an_address_where_nobody_listens_is_refused_before_ray_tries() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "no-such-host.invalid:6379", "127.0.0.1:99999"):
        with pytest.raises(InputError, match=rf"no Ray cluster answers at '{address}'.*HOST:PORT"):
            require_listener(address)


def test_a_web_server_is_refused_before_ray_tries() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with pytest.raises(InputError, match=r"a web server does, perhaps Ray's dashboard.*HOST:PORT"):
            require_listener(f"127.0.0.1:{server.server_port}")


def test_an_address_where_somebody_listens_is_left_to_ray() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        require_listener(f"127.0.0.1:{listener.getsockname()[1]}", web_s=0.05)
    require_listener("auto")


def terminate() -> None:
    """Send this process SIGTERM, and give it an instant to hear it."""
    os.kill(os.getpid(), signal.SIGTERM)
    signal.sigtimedwait([], 0.01)


@pytest.mark.parametrize("blocked", [False, True])
def test_sigterm_is_like_ctrl_c_where_sigint_is_blocked_too(blocked: bool) -> None:
    before = signal.getsignal(signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if blocked else set())
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_as_ctrl_c():
            terminate()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_goes_to_who_handles_ctrl_c() -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with sigterm_as_ctrl_c():
            terminate()
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


def test_another_thread_hears_no_signal() -> None:
    def enter() -> None:
        with sigterm_as_ctrl_c():
            done.append(True)

    done: list[bool] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert done == [True]


def test_a_session_with_a_wrong_address_starts_nothing() -> None:
    import ray

    if ray.is_initialized():
        pytest.skip("this process is connected already")
    with pytest.raises(InputError, match="no Ray cluster answers"), ray_session("127.0.0.1:1"):
        pass
    assert not ray.is_initialized()
