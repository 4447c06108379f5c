"""A folder on an object store (s3://, gs://), one request a method; credentials come from the environment alone.

A put on these stores is atomic: a file there is the old one or the new one as a whole.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from raytune_m2f.errors import CheckpointError, InputError
from raytune_m2f.storage.address import address_within, holds_credentials
from raytune_m2f.storage.files import replacing

Result = TypeVar("Result")
log = logging.getLogger(__name__)

SCHEMES = ("s3", "gs")
ATTEMPTS, PAUSE_S = 3, 1.0
"""Of one request, beside those of the store's own client, which take it seconds."""
S3_ATTEMPTS = 3
"""Of the client: where a server hangs, pyarrow's own way of trying again takes minutes."""
GS_RETRY, GS_RETRY_S = "retry_limit_seconds", 20
"""Of the client: its default is 15 minutes."""
BLOCK = 2**24
ADVICE = "Check the address, the network, and the credentials in this environment."


class ObjectStore:
    """The files in one folder of a store; their names are relative to it, with `/`.

    A request that fails is repeated for some seconds, then a CheckpointError says so.

    Attributes:
        address: of the folder.
    """

    def __init__(self, filesystem: Any, base: str, address: str) -> None:
        """`filesystem` is one of pyarrow's, `base` the folder's path in it."""
        self._filesystem = filesystem
        self._base = base.rstrip("/")
        self.address = address

    @classmethod
    def at(cls, address: str, *within: str) -> ObjectStore:
        """The folder at an address, or one below it.

        Raises:
            InputError: it is no address, holds a password, or its bucket does not answer.
        """
        filesystem, base = connect(address)
        return cls(filesystem, "/".join([base, *within]), address_within(address, *within))

    @property
    def name(self) -> str:
        """Of the folder."""
        return self._base.rpartition("/")[2]

    def address_of(self, name: str) -> str:
        """The address of a file or a folder in this one."""
        return address_within(self.address, name)

    def listing(self, under: str, *, recursive: bool) -> list[tuple[str, bool]]:
        """What is in a folder, by name, and whether it is a file."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._path(under), allow_not_found=True, recursive=recursive)
        found = self.request(under, lambda: self._filesystem.get_file_info(selector))
        return sorted((info.path[len(self._base) + 1 :], info.type == FileType.File) for info in found)

    def modified(self, name: str) -> float | None:
        """When a file was written, by the store's clock [s since 1970]; None if there is none."""
        info = self.request(name, lambda: self._filesystem.get_file_info(self._path(name)))
        return None if info.mtime_ns is None else info.mtime_ns / 1e9

    def download(self, name: str, path: Path) -> None:
        """Write a file's content to `path`. Raises FileNotFoundError if there is no such file."""

        def write() -> None:
            with self._filesystem.open_input_stream(self._path(name)) as there, replacing(path) as here:
                shutil.copyfileobj(there, here, BLOCK)

        self.request(name, write)

    def upload(self, path: Path, name: str) -> None:
        """Write the file at `path` to the store."""

        def write() -> None:
            with path.open("rb") as here, self._filesystem.open_output_stream(self._path(name)) as there:
                shutil.copyfileobj(here, there, BLOCK)

        self.request(name, write, gone_ok=False)

    def read(self, name: str) -> str | None:
        """The text of a small file; None if there is none."""

        def content() -> bytes:
            with self._filesystem.open_input_stream(self._path(name)) as there:
                return bytes(there.read())

        try:
            return self.request(name, content).decode()
        except FileNotFoundError:
            return None

    def write(self, name: str, text: str) -> None:
        """Write a small file."""

        def put() -> None:
            with self._filesystem.open_output_stream(self._path(name)) as there:
                there.write(text.encode())

        self.request(name, put, gone_ok=False)

    def delete(self, name: str) -> None:
        """Delete a file, if it is there."""
        try:
            self.request(name, lambda: self._filesystem.delete_file(self._path(name)))
        except FileNotFoundError:
            return

    def copy(self, source: str, target: str) -> None:
        """Give a file a second name."""
        self.request(target, lambda: self._filesystem.copy_file(self._path(source), self._path(target)), gone_ok=False)

    def request(self, name: str, action: Callable[[], Result], *, gone_ok: bool = True) -> Result:
        """The result of one request about the file `name`, which all others here are made of.

        Raises:
            FileNotFoundError: the file is not there, and that is an answer (`gone_ok`).
            CheckpointError: every attempt failed.
        """
        for attempt in range(ATTEMPTS):
            try:
                return action()
            except OSError as error:
                if gone_ok and isinstance(error, FileNotFoundError):
                    raise
                log.warning("%s: %s", self.address_of(name), reason(error))
                failure = error
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE_S * 2**attempt)
        raise CheckpointError(
            f"the store does not do what it is asked for at {self.address_of(name)}: {reason(failure)}. {ADVICE} "
            "What is there is whole; go on with `raytune-m2f resume`."
        ) from failure

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}".rstrip("/")


def connect(address: str) -> tuple[Any, str]:
    """The store as a pyarrow filesystem, and the folder's path in it.

    Raises:
        InputError: it is no address, holds a password, or its bucket does not answer.
    """
    from pyarrow.fs import FileType  # here, as it takes long to import

    parts = urlsplit(address)
    if ("@" in parts.netloc and not parts.netloc.startswith("anonymous@")) or holds_credentials(address):
        raise InputError(
            f"the address {parts.scheme}://...@... holds credentials, which would be saved and shown. Give them in the "
            "environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role)."
        )
    if parts.scheme not in SCHEMES or not parts.netloc:
        raise InputError(f"{address}: allowed are a directory, s3://BUCKET/PATH and gs://BUCKET/PATH")
    if parts.scheme == "gs" and GS_RETRY not in parts.query:
        query = "&".join(filter(None, [parts.query, urlencode({GS_RETRY: GS_RETRY_S})]))
        parts = parts._replace(query=query)
    try:
        filesystem, base = open_filesystem(parts.geturl())
        bucket = base.split("/")[0]
        found = filesystem.get_file_info(bucket).type != FileType.NotFound
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are among them
        raise InputError(f"{address} cannot be reached: {reason(error)}. {ADVICE}") from error
    if not found:
        raise InputError(f"{address}: there is no bucket {bucket!r}, or it is not yours. {ADVICE}")
    return filesystem, base.rstrip("/")


def open_filesystem(address: str) -> tuple[Any, str]:
    """pyarrow's filesystem for an address, and the path in it; nothing is asked of the store yet."""
    from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

    filesystem, base = FileSystem.from_uri(address)
    if isinstance(filesystem, S3FileSystem):  # an address cannot say how often to try
        _, (options,) = filesystem.__reduce__()
        retry = AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)
        filesystem = S3FileSystem(**{**options, "retry_strategy": retry})
    return filesystem, base


def reason(error: Exception) -> str:
    """The first line of a store's many."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
