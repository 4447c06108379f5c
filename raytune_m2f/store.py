"""Addresses on object stores (s3://, gs://), and the way there. Credentials come from the environment alone."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlencode, urlsplit

from raytune_m2f.credentials import holds_credentials
from raytune_m2f.errors import InputError

SCHEMES = ("s3", "gs")
S3_ATTEMPTS = 3  # where a server hangs, pyarrow's own way of trying again takes minutes
GS_RETRY, GS_RETRY_S = "retry_limit_seconds", 20  # of 15 minutes
ADVICE = "Check the address, the network, and the credentials in this environment."


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether it names a folder on a store, not a directory."""
    return "://" in os.fspath(path)


def address_within(address: str, *names: str) -> str:
    """The address of what is in a folder; a query stays at the end."""
    parts = urlsplit(address)
    return parts._replace(path="/".join([parts.path.rstrip("/"), *names])).geturl()


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
        store, base = _open(parts.geturl())
        bucket = base.split("/")[0]
        found = store.get_file_info(bucket).type != FileType.NotFound
    except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are among them
        raise InputError(f"{address} cannot be reached: {reason(error)}. {ADVICE}") from error
    if not found:
        raise InputError(f"{address}: there is no bucket {bucket!r}, or it is not yours. {ADVICE}")
    return store, base.rstrip("/")


def reason(error: Exception) -> str:
    """The first line of a store's many."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _open(address: str) -> tuple[Any, str]:
    from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

    store, base = FileSystem.from_uri(address)
    if isinstance(store, S3FileSystem):  # an address cannot say how often to try
        _, (options,) = store.__reduce__()
        store = S3FileSystem(**{**options, "retry_strategy": AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS)})
    return store, base
