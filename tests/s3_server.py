"""An S3 server on this machine (moto), in a process of its own, which a test may end and start again."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest
from patience import wait_until

BUCKET = "bucket"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "a secret", "AWS_DEFAULT_REGION": "us-east-1"}


class S3Server:
    """Attributes:
    url: for AWS_ENDPOINT_URL.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._answers, "moto's server to start")

    def _answers(self) -> bool:
        try:
            self.put(BUCKET)
        except URLError:
            return False
        return True

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def put(self, path: str) -> None:
        with urlopen(Request(f"{self.url}/{path}", method="PUT")):
            pass

    def address(self, path: str) -> str:
        """As pyarrow names a server other than Amazon's."""
        return f"s3://{BUCKET}/{path}?endpoint_override={quote(self.url, safe='')}"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with one empty bucket; its credentials are in the environment meanwhile, its address is not."""
    server = S3Server(free_port())
    with pytest.MonkeyPatch.context() as patch:
        for key, value in CREDENTIALS.items():
            patch.setenv(key, value)
        try:
            server.start()
            yield server
        finally:
            server.stop()
