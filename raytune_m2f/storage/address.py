"""Passwords in addresses, which would be saved in a file, shown in a log or sent along; a `${VARIABLE}` is none.

Addresses on object stores (s3://, gs://), and the way there. Credentials come from the environment alone.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from raytune_m2f.errors import InputError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_VARIABLES = re.compile(r"(\$\{\w+\}|\$\w+)+")
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?|pwd|.*secret.*|.*token|api[-_]?key|.*access[-_]?key(id)?|.*credentials?|sig|.*signature|auth",
    flags=re.IGNORECASE,
)
_IN_VALUE = re.compile(r"(?:pwd|password)\s*=\s*([^;]*)", flags=re.IGNORECASE)  # of ODBC
_USER_IS_SECRET = ("http", "https", "ftp", "s3", "gs")
"""Where a name before the @ may be a token."""


def holds_credentials(text: str) -> bool:
    """Whether an address in the text has a password, a token or a signature in it."""
    return any(_has_credentials(found[0]) for found in _ADDRESS.finditer(text))


def without_credentials(text: str) -> str:
    """The text to be shown: neither who logs in nor what is asked for is left in its addresses."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1?...", re.sub(r"://[^/\s]*@", "://...@", text))


def _has_credentials(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:  # no address after all
        return False
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if _is_secret(password) or (
        not colon and parts.scheme in _USER_IS_SECRET and user != "anonymous" and _is_secret(user)
    ):
        return True
    return any(_is_secret_option(key, value) for key, value in parse_qsl(parts.query, max_num_fields=None))


def _is_secret_option(key: str, value: str) -> bool:
    if _SECRET_KEY.fullmatch(key) and _is_secret(value):
        return True
    return holds_credentials(value) or any(_is_secret(found[1]) for found in _IN_VALUE.finditer(value))


def _is_secret(value: str) -> bool:
    return bool(value) and not _VARIABLES.fullmatch(value)


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
