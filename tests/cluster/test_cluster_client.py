"""The job server of a cluster: what is not there, is none of Ray's or wants a token is one clear error, at once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raytune_m2f.cluster import client
from raytune_m2f.errors import InputError, MissingDependencyError, RaytuneM2FError

Serve = Callable[[int, bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that gives every question one answer; returns its address."""
    servers: list[HTTPServer] = []

    def start(code: int, body: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "http://", "http://head:port", "auto", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="allowed: http://HOST:PORT"):
        client.require_ray(address)


def test_nobody_there() -> None:
    with pytest.raises(InputError, match=r"no Ray cluster answers at .*refused.*http://head:8265"):
        client.require_ray(f"http://127.0.0.1:{free_port()}")


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(InputError, match="timed out"):
            client.require_ray(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.1)


@pytest.mark.parametrize(("code", "body"), [(404, b""), (500, b""), (200, b"<html>"), (200, b"[]"), (200, b"{}")])
def test_a_server_of_somebody_else_is_refused(serve: Serve, code: int, body: bytes) -> None:
    with pytest.raises(InputError, match="is no Ray dashboard"):
        client.require_ray(serve(code, body))


@pytest.mark.parametrize(("code", "body"), [(200, b'{"ray_version": "2.60.0"}'), (401, b""), (403, b"")])
def test_a_dashboard_is_let_through(serve: Serve, code: int, body: bytes) -> None:
    client.require_ray(serve(code, body))  # a missing token is the client's to say


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'raytune-m2f\[cluster\]'"):
        client.connect("http://head:8265")


def test_answers_of_the_client_become_our_errors() -> None:
    from ray.exceptions import AuthenticationError

    with pytest.raises(InputError, match=r"Missing authentication token.*RAY_AUTH_TOKEN"), client.clear_answers("URL"):
        raise AuthenticationError("Authentication required: Missing authentication token")
    with pytest.raises(RaytuneM2FError, match="does not answer any more"), client.clear_answers("URL"):
        raise ConnectionResetError("reset by peer")
    with pytest.raises(RaytuneM2FError, match="could not do it"), client.clear_answers("URL"):
        raise RuntimeError("Request failed with status code 500")
